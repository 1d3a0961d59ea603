"""Standard normal prior, p(z) = N(0, I) (Kingma & Welling 2014)."""

import torch
from pydantic import PositiveInt
from torch import Tensor

from aelab.models.prior import Prior, kl_to_standard_normal, log_normal


class StandardNormal(Prior):
    """The standard normal distribution N(0, I)."""

    independent = True

    def __init__(self, code: PositiveInt) -> None:
        super().__init__()
        self.code = code

    def log_prob(self, z: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Compute log p(z) in nats: (…, d) → (…)."""
        zero = z.new_zeros(())
        return log_normal(z, zero, zero)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw z ~ p(z), (count, d)."""
        return torch.randn(count, self.code, generator=generator, device=generator.device)

    def kl(
        self,
        mean: Tensor,
        log_variance: Tensor,
        z: Tensor,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> Tensor:
        """Compute KL(N(μ, diag σ²) ‖ N(0, I)) in closed form, in nats: (B, d) → (B,)."""
        return kl_to_standard_normal(mean, log_variance)
