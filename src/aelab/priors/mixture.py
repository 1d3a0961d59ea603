"""Mixture of Gaussians as a prior, learned together with the model: p(z) = Σ_k π_k · N(z; μ_k, diag σ_k²).

The prior is from Dilokthanakul et al. 2016. Tomczak & Welling 2018 compare it with their VampPrior, whose components
are the posteriors of learned pseudo-inputs.
"""

import math

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from aelab.models.prior import Prior


class Mixture(Prior):
    """Mixture of `components` Gaussians, which are all near N(0, I) before training."""

    def __init__(self, code: PositiveInt, *, components: PositiveInt) -> None:
        super().__init__()
        self.means = nn.Parameter(nn.init.normal_(torch.empty(components, code), std=0.5))
        self.log_variances = nn.Parameter(torch.zeros(components, code))
        self.logits = nn.Parameter(torch.zeros(components))

    def log_prob(self, z: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Compute log p(z) in nats: (…, d) → (…)."""
        precisions = (-self.log_variances).exp()  # (K, d)
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 is too coarse for the difference below
            # `square + constant` contains Σ_d (z − μ)²/σ². Two matrix products need no tensor of shape (…, K, d).
            square = z.square() @ precisions.T - 2 * z @ (self.means * precisions).T
        constant = (self.means.square() * precisions + self.log_variances + math.log(2 * math.pi)).sum(1)
        return (self.logits.log_softmax(0) - 0.5 * (square + constant)).logsumexp(-1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw z ~ p(z), (count, d)."""
        chosen = torch.multinomial(self.logits.softmax(0), count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, device=generator.device)
        return self.means[chosen] + (self.log_variances[chosen] / 2).exp() * noise
