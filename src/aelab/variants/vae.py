"""VAE: an autoencoder whose code is a distribution.

    inference model   q_φ(z|x) = N(μ, diag σ²)
    prior             p(z) = N(0, I), or a learned one
    reparameterised   z = μ + σ·ε,  ε ~ N(0, I)
    loss              −E_q[log p_θ(x|z)] + β·KL(q_φ(z|x) ‖ p(z))

Kingma & Welling 2014. With β = 1, the loss is −ELBO, the negative of the bound in equation 3. The training estimates
the loss from one z for each image, as in equation 10. −ELBO is an upper bound on −log p(x):

    −ELBO = −log p(x) + KL(q_φ(z|x) ‖ p_θ(z|x)) ≥ −log p(x)

The training can estimate −ELBO, but neither −log p(x) nor this KL divergence alone. With another β, the model is the
β-VAE of Higgins et al. 2017.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor

from aelab.models.base import Shape
from aelab.models.layers import mean_colour
from aelab.models.likelihood import LIKELIHOODS, LikelihoodSection
from aelab.models.network import NETWORKS, NetworkSection
from aelab.models.prior import PRIORS, PriorSection, kl_terms, log_normal, moments, reparameterise
from aelab.variants._variational import Beta, Variational, WarmUp


class VAE(Variational):
    """A variational autoencoder with `code` latent dimensions."""

    def __init__(
        self,
        image: Shape,
        *,
        network: NetworkSection,
        code: PositiveInt,
        beta: Beta,
        likelihood: LikelihoodSection,
        warm_up: WarmUp = 0.0,
        prior: PriorSection = "standard",  # type: ignore[assignment]
    ) -> None:
        super().__init__(image, LIKELIHOODS.build(likelihood), code, beta, warm_up)
        built = NETWORKS.build(network, image)
        self.encoder = built.encoder(2 * code)
        self.decoder = built.decoder(code, self.likelihood.channels)
        self.prior = PRIORS.build(prior, code)
        if not self.prior.independent:
            self.undefined["kl_per_dimension"] = "under this prior the dimensions are not independent"

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute μ and log σ² of q(z|x), (B, code) each."""
        return moments(self.encoder(x))

    def start_from(self, x: Tensor) -> None:
        """Set the decoder's bias so that the initial output is the mean colour of x."""
        self.decoder.start_at(self.likelihood.output_for(mean_colour(x)))

    def encode(self, x: Tensor) -> Tensor:
        """Return μ of q(z|x), (B, code)."""
        return self.posterior(x)[0]

    def kl_terms(self, x: Tensor) -> Tensor:
        """Compute ½ (μ² + σ² − 1 − log σ²) in nats, (B, code); only for the prior N(0, I)."""
        return kl_terms(*self.posterior(x))

    def shifts(self, x: Tensor) -> Tensor:
        """Return μ of q(z|x), (B, code). A dimension is active if its μ varies between images (Burda et al. 2016)."""
        return self.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        """Return E[x|z], (B, C, H, W)."""
        return self.likelihood.mean(self.decoder(z))

    def bound(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Compute distortion and rate at one z ~ q(z|inputs), in nats per image: (B,) each."""
        q = self.posterior(inputs)
        z = reparameterise(*q, generator)
        return -self.likelihood.log_prob(self.decoder(z), targets), self.prior.kl(*q, z, generator)

    def log_weights(self, inputs: Tensor, targets: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """Compute log p(targets|z) + log p(z) − log q(z|inputs) at `samples` draws z ~ q(z|inputs): (B, samples)."""
        mean, log_variance = (each.unsqueeze(1).expand(-1, samples, -1) for each in self.posterior(inputs))
        z = reparameterise(mean, log_variance, generator)  # (B, k, d)
        copies = targets.unsqueeze(1).expand(-1, samples, *targets.shape[1:])
        log_likelihood = self.likelihood.log_prob(self.decoder(z.flatten(0, 1)), copies.flatten(0, 1))
        log_prior = self.prior.log_prob(z, generator)
        return log_likelihood.view_as(log_prior) + log_prior - log_normal(z, mean, log_variance)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Decode codes z ~ p(z) into images (count, C, H, W)."""
        return self.decode(self.prior.sample(count, generator))
