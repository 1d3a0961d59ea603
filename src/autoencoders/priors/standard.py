"""The standard normal prior: p(z) = N(0, I) (Kingma & Welling 2014)."""

import torch
from pydantic import PositiveInt
from torch import Tensor

from autoencoders.priors import Prior, log_normal


class StandardNormal(Prior):
    """N(0, I)."""

    independent = True

    def __init__(self, code: PositiveInt) -> None:
        super().__init__()
        self.code = code

    def log_prob(self, z: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """(…, d) → (…)."""
        zero = z.new_zeros(())
        return log_normal(z, zero, zero)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, d)."""
        return torch.randn(count, self.code, generator=generator, device=generator.device)

    def kl(
        self,
        mean: Tensor,
        log_variance: Tensor,
        z: Tensor,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> Tensor:
        """The closed form."""
        return kl_to_standard_normal(mean, log_variance)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1 − log σ²) in nats: (B, d) → (B,).

    Kingma & Welling 2014, appendix B.
    """
    return kl_terms(mean, log_variance).sum(1)


def kl_terms(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The same of each dimension: (B, d) → (B, d)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
