"""What a prior has to give: the distribution p(z) over the codes of a variational autoencoder.

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
    """p(z) of vectors with `code` dimensions; only where these are independent has each a KL of its own."""

    independent: ClassVar[bool] = False

    @abstractmethod
    def log_prob(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """log p(z) in nats: (…, d) → (…). Where it is intractable, the logarithm of an unbiased estimate of p(z)."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """z ~ p(z), shape (count, d)."""

    def kl(self, mean: Tensor, log_variance: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
        """KL(N(μ, diag σ²) ‖ p) in nats, here estimated at one z ~ N(μ, diag σ²): (B, d) each → (B,)."""
        return log_normal(z, mean, log_variance) - self.log_prob(z, generator)


PRIORS: Registry[Prior] = Registry("aelab.priors", Prior, "prior")  # type: ignore[type-abstract]
PriorSection: TypeAlias = Annotated[
    dict[str, Any],
    PRIORS,
    Field(description="of the code: standard, N(0, I); mixture, learned; or layer, a second stochastic one"),
]


def reparameterise(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """z = μ + σ·ε with ε ~ N(0, I); all (…, d)."""
    noise = process_group.draw(torch.randn, mean.shape, generator)
    return mean + (log_variance / 2).exp() * noise


def moments(output: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """μ and log σ², (…, d) each, of a layer's output (…, 2d); log σ² is clamped: neither σ² nor 1/σ² overflows."""
    mean, log_variance = output.float().chunk(2, dim=dim)
    return mean, log_variance.clamp(-30.0, 20.0)


def log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z; μ, diag σ²) in nats: (…, d) each → (…)."""
    square = (z - mean).square() * (-log_variance).exp()
    return -0.5 * (square + log_variance + math.log(2 * math.pi)).sum(-1)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1 − log σ²) in nats: (B, d) → (B,).

    Kingma & Welling 2014, appendix B.
    """
    return kl_terms(mean, log_variance).sum(1)


def kl_terms(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The same of each dimension: (B, d) → (B, d)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
