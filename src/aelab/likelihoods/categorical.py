"""Categorical likelihood: a softmax over the 256 values of a pixel.

This is the softmax of van den Oord, Kalchbrenner & Kavukcuoglu 2016, section 2.2. The distribution ignores the order of
the values. Bits per dimension under this likelihood can be compared with published figures.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from aelab.models.likelihood import Likelihood

VALUES = 256
SPREAD = 2.0  # α + β of the beta-binomial distribution of `output_for`; a small sum makes the distribution broad


class Categorical(Likelihood):
    """Softmax over 256 values; the decoder has one output for each value of each channel."""

    channels = VALUES
    pixels = "8-bit"

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Compute Σ log p(x) over all values of each image, in nats, (B,)."""
        values = (x * (VALUES - 1)).round().long()
        return -F.cross_entropy(_per_value(output), values, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z]: (B, C·256, H, W) → (B, C, H, W)."""
        values = torch.linspace(0, 1, VALUES, device=output.device)
        return torch.einsum("bvchw,v->bchw", _per_value(output).softmax(1), values).clamp(0, 1)

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one of the 256 values for each channel of a pixel: (B, C·256, H, W) → (B, C, H, W)."""
        probabilities = _per_value(output).softmax(1).movedim(1, -1)  # (B, C, H, W, 256)
        drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator)
        return drawn.view(probabilities.shape[:-1]) / (VALUES - 1)

    def output_for(self, mean: Tensor) -> Tensor:
        """Compute the log-probabilities of a broad beta-binomial distribution with mean `mean`: (C,) → (C·256,)."""
        v = torch.arange(VALUES, dtype=mean.dtype, device=mean.device)
        n = VALUES - 1
        a, b = (SPREAD * mean).unsqueeze(1), (SPREAD * (1 - mean)).unsqueeze(1)
        ways = torch.lgamma(v.new_tensor(n + 1.0)) - torch.lgamma(v + 1) - torch.lgamma(n - v + 1)
        beta = torch.lgamma(v + a) + torch.lgamma(n - v + b) - torch.lgamma(n + a + b)
        return (ways + beta - torch.lgamma(a) - torch.lgamma(b) + torch.lgamma(a + b)).flatten()


def _per_value(output: Tensor) -> Tensor:
    """Give the 256 values a dimension of their own: (B, C·256, H, W) → (B, 256, C, H, W)."""
    return output.float().unflatten(1, (-1, VALUES)).movedim(2, 1)
