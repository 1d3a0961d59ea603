"""Bernoulli: each pixel is black or white.

For a gray pixel the cross-entropy is the expected log-likelihood of its stochastic binarisation, so the bound that it
gives is one on dynamically binarised images.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from aelab.models.likelihood import Likelihood


class Bernoulli(Likelihood):
    """The decoder's output is the log-odds of white."""

    pixels = "Bernoulli"

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Σ x·log p + (1 − x)·log(1 − p), shape (B,)."""
        return -F.binary_cross_entropy_with_logits(output.float(), x, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """The probability of white, same shape as `output`."""
        return output.sigmoid()

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Black and white pixels, same shape as `output`."""
        return torch.bernoulli(self.mean(output), generator=generator)

    def output_for(self, mean: Tensor) -> Tensor:
        """The log-odds, same shape as `mean`."""
        return mean.logit()
