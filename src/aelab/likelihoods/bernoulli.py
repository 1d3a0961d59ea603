"""Bernoulli: each pixel is black or white.

For a gray pixel, the negative cross-entropy is the expected log-likelihood of its stochastic binarisation. The ELBO of
gray images is therefore also a bound for dynamically binarised images.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from aelab.models.likelihood import Likelihood


class Bernoulli(Likelihood):
    """Bernoulli distribution; the decoder's output is the log-odds of white."""

    pixels = "Bernoulli"

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Compute Σ x·log p + (1 − x)·log(1 − p) in nats, (B,)."""
        return -F.binary_cross_entropy_with_logits(output.float(), x, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """Return the probability of white, with the shape of `output`."""
        return output.sigmoid()

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw black and white pixels, with the shape of `output`."""
        return torch.bernoulli(self.mean(output), generator=generator)

    def output_for(self, mean: Tensor) -> Tensor:
        """Return the log-odds, with the shape of `mean`."""
        return mean.logit()
