"""VAE: an autoencoder whose code is a distribution.

    inference model   q_φ(z|x) = N(μ, diag σ²)
    prior             p(z) = N(0, I)
    reparameterised   z = μ + σ·ε,  ε ~ N(0, I)
    loss              −E_q[log p_θ(x|z)] + β·KL(q_φ(z|x) ‖ p(z))

Kingma & Welling 2014, equations 4 and 10; β = 1 is the bound −log p(x) ≤ loss, another β is the β-VAE of Higgins et
al. 2017. log p(x) itself is intractable: loss = −log p(x) + KL(q_φ(z|x) ‖ p_θ(z|x)).
"""

from collections.abc import Iterable

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from autoencoders.base import CODEBOOK_METRICS, Autoencoder, Losses, Shape
from autoencoders.modules.likelihoods import LIKELIHOODS, Likelihood, bits_per_dim
from autoencoders.modules.networks import Decoder, Encoder, Width

ACTIVE = 0.01  # a latent dimension is active when Var_x(E_q[z]) exceeds this (Burda et al. 2016, section 5.2)


class VAE(Autoencoder):
    """A variational autoencoder with `code` latent dimensions and `width` feature maps."""

    undefined = dict.fromkeys(CODEBOOK_METRICS, "there is no codebook")

    def __init__(
        self,
        image: Shape,
        *,
        code: PositiveInt,
        width: Width,
        beta: NonNegativeFloat,
        likelihood: Likelihood,
    ) -> None:
        super().__init__(image)
        self.beta = beta
        self.encoder = Encoder(image, width, 2 * code)
        self.decoder = Decoder(image, width, code)
        self.likelihood = LIKELIHOODS[likelihood]()

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² of q(z|x), each (B, code); log σ² is clamped so that neither σ² nor 1/σ² overflows."""
        mean, log_variance = self.encoder(x).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def start_from(self, x: Tensor) -> None:
        """Start with the mean colour of x as the output."""
        self.decoder.output.start_at(x)

    def encode(self, x: Tensor) -> Tensor:
        """μ, shape (B, code)."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """E[x|z], shape (B, C, H, W)."""
        return self.likelihood.mean(self.decoder(z))

    def bound(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Distortion −log p(targets|z) at one z ~ q(z|inputs), and rate KL(q ‖ p), in nats per image: (B,) each."""
        mean, log_variance = self.posterior(inputs)
        z = reparameterise(mean, log_variance, generator)
        return self.likelihood.nll(self.decoder(z), targets), kl_to_standard_normal(mean, log_variance)

    def loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Losses:
        """−ELBO in nats per image, its rate weighted by β."""
        distortion, rate = (term.mean() for term in self.bound(inputs, targets, generator))
        return {"loss": distortion + self.beta * rate, "distortion": distortion, "rate": rate}

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Images decoded from z ~ N(0, I)."""
        code = self.decoder.code
        return self.decode(torch.randn(count, code, generator=generator, device=generator.device))

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> dict[str, float]:
        """−ELBO (β = 1 whatever the training's) and its parts in nats per image; active units."""
        distortions, rates, means = [], [], []
        for x in batches:
            distortion, rate = self.bound(x, x, generator)
            distortions.append(distortion)
            rates.append(rate)
            means.append(self.encode(x))
        mean_distortion, mean_rate = (torch.cat(parts).double().mean().item() for parts in (distortions, rates))
        return {
            "neg_elbo": mean_distortion + mean_rate,
            "rate": mean_rate,
            "distortion": mean_distortion,
            "bits_per_dim": bits_per_dim(mean_distortion + mean_rate, self.image),
            "active_units": float((torch.cat(means).double().var(0) > ACTIVE).sum()),
        }


def reparameterise(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """Z = μ + σ·ε with ε ~ N(0, I); all (B, d)."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + (log_variance / 2).exp() * noise


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1 − log σ²) in nats: (B, d) → (B,) (appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
