"""Bernoulli likelihood: each pixel is black or white.

A gray image can be binarised at random: a pixel becomes white with a probability equal to its gray value. The negative
cross-entropy of the gray image is the expected log-likelihood of such a binarised copy. So the ELBO of the gray image
is a lower bound on the expected log p(x) of the binarised copy.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from aelab.models.likelihood import Likelihood


class Bernoulli(Likelihood):
    """Bernoulli distribution. The decoder's output is the log-odds of white."""

    pixels = "Bernoulli"

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Compute Σ x·log p + (1 − x)·log(1 − p) in nats, (B,), where p is the probability of white."""
        return -F.binary_cross_entropy_with_logits(output.float(), x, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """Return the probability of white, with the shape of `output`."""
        return output.sigmoid()

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw black and white pixels, with the shape of `output`."""
        return torch.bernoulli(self.mean(output), generator=generator)

    def output_for(self, mean: Tensor) -> Tensor:
        """Return the log-odds of `mean`, with the shape of `mean`."""
        return mean.logit()
