"""VAE: an autoencoder whose code is a distribution.

    inference model   q_φ(z|x) = N(μ, diag σ²)
    prior             p(z) = N(0, I), or a learned one
    reparameterised   z = μ + σ·ε,  ε ~ N(0, I)
    loss              −E_q[log p_θ(x|z)] + β·KL(q_φ(z|x) ‖ p(z))

Kingma & Welling 2014, equations 4 and 10; β = 1 is the bound −log p(x) ≤ loss, another β is the β-VAE of Higgins et
al. 2017. log p(x) itself is intractable: loss = −log p(x) + KL(q_φ(z|x) ‖ p_θ(z|x)).
"""

from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from autoencoders.base import NEEDS_CODEBOOK, Autoencoder, Batch, Losses, Shape
from autoencoders.likelihoods import LIKELIHOODS, LikelihoodSection, bits_per_dim
from autoencoders.measures import Mean, Variance
from autoencoders.modules.layers import mean_colour
from autoencoders.networks import NETWORKS, NetworkSection
from autoencoders.priors import PRIORS, PriorSection, log_normal, moments, reparameterise

ACTIVE = 0.01  # a latent dimension is active when Var_x(E_q[z]) exceeds this (Burda et al. 2016, section 5.2)
COLLAPSED = 0.1  # the share of dimensions that are active is less than this


class VAE(Autoencoder):
    """A variational autoencoder with `code` latent dimensions; β grows from 0 over the share `warm_up` of the steps."""

    def __init__(
        self,
        image: Shape,
        *,
        network: NetworkSection,
        code: PositiveInt,
        beta: NonNegativeFloat,
        likelihood: LikelihoodSection,
        warm_up: Annotated[float, Field(ge=0, le=1)] = 0.0,
        prior: PriorSection = "standard",  # type: ignore[assignment]
    ) -> None:
        super().__init__(image)
        self.code, self.beta, self.warm_up = code, beta, warm_up
        built, p_x = NETWORKS.build(network, image), LIKELIHOODS.build(likelihood)
        self.encoder = built.encoder(2 * code)
        self.decoder = built.decoder(code, p_x.channels)
        self.prior = PRIORS.build(prior, code)
        self.likelihood = p_x
        self.pixels = p_x.pixels
        self.undefined = {**dict.fromkeys(NEEDS_CODEBOOK, "there is no codebook"), **p_x.undefined}

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² of q(z|x), each (B, code)."""
        return moments(self.encoder(x))

    def start_from(self, x: Tensor) -> None:
        """Start with the mean colour of x as the output."""
        self.decoder.start_at(self.likelihood.output_for(mean_colour(x)))

    def encode(self, x: Tensor) -> Tensor:
        """μ, shape (B, code)."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """E[x|z], shape (B, C, H, W)."""
        return self.likelihood.mean(self.decoder(z))

    def bound(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Distortion −log p(targets|z) at one z ~ q(z|inputs), and rate KL(q ‖ p), in nats per image: (B,) each."""
        q = self.posterior(inputs)
        z = reparameterise(*q, generator)
        return -self.likelihood.log_prob(self.decoder(z), targets), self.prior.kl(*q, z, generator)

    def log_weights(self, inputs: Tensor, targets: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """log p(targets|z) + log p(z) − log q(z|inputs) at `samples` draws z ~ q(z|inputs): (B, samples)."""
        mean, log_variance = (each.unsqueeze(1).expand(-1, samples, -1) for each in self.posterior(inputs))
        z = reparameterise(mean, log_variance, generator)  # (B, k, d)
        copies = targets.unsqueeze(1).expand(-1, samples, *targets.shape[1:])
        log_likelihood = self.likelihood.log_prob(self.decoder(z.flatten(0, 1)), copies.flatten(0, 1))
        log_prior = self.prior.log_prob(z, generator)
        return log_likelihood.view_as(log_prior) + log_prior - log_normal(z, mean, log_variance)

    def loss(self, batch: Batch) -> Losses:
        """−ELBO in nats per image, its rate weighted by β."""
        distortion, rate = (term.mean() for term in self.bound(batch.inputs, batch.targets, batch.generator))
        beta = self.beta * batch.ramp(self.warm_up)
        return {"loss": distortion + beta * rate, "distortion": distortion, "rate": rate}

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Images decoded from z ~ p(z)."""
        return self.decode(self.prior.sample(count, generator))

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> dict[str, float]:
        """−ELBO (β = 1 whatever the training's) and its parts in nats per image, at two z each; active units."""
        distortion, rate, spread, means = Mean(), Mean(), Mean(), Variance()
        again = torch.Generator(generator.device).manual_seed(generator.initial_seed() + 1)
        for x in batches:
            first, second = self.bound(x, x, generator), self.bound(x, x, again)
            distortion.add((first[0] + second[0]) / 2)
            rate.add((first[1] + second[1]) / 2)
            # Half the difference of two draws, squared, estimates the variance of their mean.
            spread.add((first[0] + first[1] - second[0] - second[1]).square() / 4)
            means.add(self.encode(x))
        neg_elbo = distortion.value + rate.value
        return {
            "neg_elbo": neg_elbo,
            "neg_elbo_error": (spread.value / spread.count) ** 0.5,
            "rate": rate.value,
            "distortion": distortion.value,
            "bits_per_dim": bits_per_dim(neg_elbo, self.image),
            "active_units": float((means.value > ACTIVE).sum()),
        }

    def symptoms(self, values: Mapping[str, float]) -> list[str]:
        """Posterior collapse: q(z|x) is the prior for every x, and the code says (almost) nothing."""
        active = values["active_units"]
        if active >= COLLAPSED * self.code:
            return []
        return [f"the posterior has collapsed: {active:.0f} of {self.code} latent dimensions are active"]
