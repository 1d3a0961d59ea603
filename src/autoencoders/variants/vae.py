"""VAE: an autoencoder whose code is a distribution.

    inference model   q_φ(z|x) = N(μ, diag σ²)
    prior             p(z) = N(0, I)
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

ACTIVE = 0.01  # a latent dimension is active when Var_x(E_q[z]) exceeds this (Burda et al. 2016, section 5.2)

COLLAPSED = 0.1  # the share of dimensions that are active is less than this


class VAE(Autoencoder):
    """A variational autoencoder with `code` latent dimensions; β grows from 0 over the share `warm_up` of the steps."""

    undefined = dict.fromkeys(NEEDS_CODEBOOK, "there is no codebook")

    def __init__(
        self,
        image: Shape,
        *,
        network: NetworkSection,
        code: PositiveInt,
        beta: NonNegativeFloat,
        likelihood: LikelihoodSection,
        warm_up: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ) -> None:
        super().__init__(image)
        self.code, self.beta, self.warm_up = code, beta, warm_up
        built, p_x = NETWORKS.build(network, image), LIKELIHOODS.build(likelihood)
        self.encoder = built.encoder(2 * code)
        self.decoder = built.decoder(code, p_x.channels)
        self.likelihood = p_x
        self.pixels = p_x.pixels

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² of q(z|x), each (B, code); log σ² is clamped so that neither σ² nor 1/σ² overflows."""
        mean, log_variance = self.encoder(x).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def start_from(self, x: Tensor) -> None:
        """Start with the mean colour of x as the output."""
        self.decoder.start_at(self.likelihood.output_for(mean_colour(x)))

    def encode(self, x: Tensor) -> Tensor:
        """μ, shape (B, code)."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """E[x|z], shape (B, C, H, W)."""
        return self.likelihood.mean(self.decoder(z))

    def distortion(self, mean: Tensor, log_variance: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """−log p(x|z) at one z ~ N(μ, diag σ²), in nats per image: (B,)."""
        return -self.likelihood.log_prob(self.decoder(reparameterise(mean, log_variance, generator)), x)

    def bound(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Distortion −log p(targets|z) at one z ~ q(z|inputs), and rate KL(q ‖ p), in nats per image: (B,) each."""
        q = self.posterior(inputs)
        return self.distortion(*q, targets, generator), kl_to_standard_normal(*q)

    def loss(self, batch: Batch) -> Losses:
        """−ELBO in nats per image, its rate weighted by β."""
        distortion, rate = (term.mean() for term in self.bound(batch.inputs, batch.targets, batch.generator))
        beta = self.beta * batch.ramp(self.warm_up)
        return {"loss": distortion + beta * rate, "distortion": distortion, "rate": rate}

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Images decoded from z ~ N(0, I)."""
        return self.decode(torch.randn(count, self.code, generator=generator, device=generator.device))

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> dict[str, float]:
        """−ELBO (β = 1 whatever the training's) and its parts in nats per image; active units."""
        distortion, rate, means = Mean(), Mean(), Variance()
        for x in batches:
            q = self.posterior(x)
            distortion.add(self.distortion(*q, x, generator))
            rate.add(kl_to_standard_normal(*q))
            means.add(q[0])
        neg_elbo = distortion.value + rate.value
        return {
            "neg_elbo": neg_elbo,
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


def reparameterise(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """z = μ + σ·ε with ε ~ N(0, I); all (B, d)."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + (log_variance / 2).exp() * noise


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1 − log σ²) in nats: (B, d) → (B,) (appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
