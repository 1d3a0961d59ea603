"""Gaussian likelihood with a learned variance: a density of real pixel values (Rybkin et al. 2021, σ-VAE).

A density may exceed 1. So a log-density cannot be compared with the log-probability of discrete pixels, and bits per
dimension are not defined.
"""

import math

import torch
from torch import Tensor, nn

from aelab.models.likelihood import Likelihood


class Gaussian(Likelihood):
    """Normal distribution. The mean μ is the sigmoid of the decoder's output. σ is one parameter for all pixels."""

    pixels = "continuous"
    undefined = {"bits_per_dim": "a density of real values has no bits per value"}

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-1.0))

    @property
    def scale(self) -> Tensor:
        """Standard deviation σ, ()."""
        return self.log_scale.clamp(min=-7.0).exp()

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Compute Σ log N(x; μ, σ²) in nats, (B,)."""
        scale = self.scale
        square = ((x - output.float().sigmoid()) / scale).square()
        return -(0.5 * square + scale.log() + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """Return μ, with the shape of `output`."""
        return output.float().sigmoid()

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x ~ N(μ, σ²), with the shape of `output`. Some values may lie outside of [0, 1]."""
        noise = torch.randn(output.shape, generator=generator, device=output.device)
        return self.mean(output) + self.scale * noise

    def output_for(self, mean: Tensor) -> Tensor:
        """Return the output whose sigmoid is `mean`, with the shape of `mean`."""
        return mean.logit()
