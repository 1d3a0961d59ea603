"""Base class of priors: the distribution p(z) over the codes of a variational autoencoder.

Dimensions: B batch, d latent dimensions.
"""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn

from aelab.core import process_group
from aelab.core.registry import Registry


class Prior(nn.Module, ABC):
    """Distribution p(z) over vectors with d dimensions.

    Attributes:
        independent: whether the dimensions of z are independent under p(z). If so, KL(N(μ, diag σ²) ‖ p) is a sum over
            dimensions.
    """

    independent: ClassVar[bool] = False

    @abstractmethod
    def log_prob(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Compute log p(z), or the logarithm of an unbiased estimate of p(z) if p(z) is intractable.

        Args:
            z: codes (…, d).
            generator: the random generator for the estimate, on the device of `z`.

        Returns:
            log p(z) in nats, (…).
        """

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw codes z ~ p(z).

        Args:
            count: number of codes.
            generator: the random generator.

        Returns:
            Codes (count, d), on the device of the generator.
        """

    def kl(self, mean: Tensor, log_variance: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
        """Compute KL(N(μ, diag σ²) ‖ p). The base class estimates the divergence from one draw z for each image.

        Args:
            mean: μ, (B, d).
            log_variance: log σ², (B, d).
            z: draws from N(μ, diag σ²), (B, d).
            generator: the random generator for `log_prob`, on the device of `z`.

        Returns:
            The KL divergence in nats, (B,).
        """
        return log_normal(z, mean, log_variance) - self.log_prob(z, generator)


PRIORS: Registry[Prior] = Registry("aelab.priors", Prior, "prior")  # type: ignore[type-abstract]
PriorSection: TypeAlias = Annotated[
    dict[str, Any],
    PRIORS,
    Field(description="prior of the code: N(0, I), a learned mixture, or a second stochastic layer"),
]


def reparameterise(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """Draw z = μ + σ·ε with ε ~ N(0, I): μ (…, d), log σ² (…, d) → z (…, d)."""
    noise = process_group.draw(torch.randn, mean.shape, generator)
    return mean + (log_variance / 2).exp() * noise


def moments(output: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Split a layer's output (…, 2d) into μ and log σ², (…, d) each. A clamp prevents overflow of σ² and 1/σ²."""
    mean, log_variance = output.float().chunk(2, dim=dim)
    return mean, log_variance.clamp(-30.0, 20.0)


def log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute log N(z; μ, diag σ²) in nats: z, μ and log σ², (…, d) each → (…)."""
    square = (z - mean).square() * (-log_variance).exp()
    return -0.5 * (square + log_variance + math.log(2 * math.pi)).sum(-1)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(μ, diag σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1 − log σ²) in nats: (B, d) → (B,).

    The formula is from Kingma & Welling 2014, appendix B.
    """
    return kl_terms(mean, log_variance).sum(1)


def kl_terms(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(μ_j, σ_j²) ‖ N(0, 1)) of each dimension j in nats: (B, d) → (B, d)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
