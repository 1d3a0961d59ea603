"""Gaussian with a learned variance: a density over real pixel values (Rybkin et al. 2021, σ-VAE).

A density may exceed 1, so its nats compare with no likelihood of discrete pixels, and it has no bits per dimension.
"""

import math

import torch
from torch import Tensor, nn

from aelab.models.likelihood import Likelihood


class Gaussian(Likelihood):
    """The sigmoid of the decoder's output is the mean μ; the standard deviation σ is one parameter for all pixels."""

    pixels = "continuous"
    undefined = {"bits_per_dim": "a density of real values has no bits per value"}

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-1.0))

    @property
    def scale(self) -> Tensor:
        """σ, shape ()."""
        return self.log_scale.clamp(min=-7.0).exp()

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Σ log N(x; μ, σ²), shape (B,)."""
        scale = self.scale
        square = ((x - output.float().sigmoid()) / scale).square()
        return -(0.5 * square + scale.log() + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """μ, same shape as `output`."""
        return output.float().sigmoid()

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """x ~ N(μ, σ²), which may leave [0, 1]; same shape as `output`."""
        noise = torch.randn(output.shape, generator=generator, device=output.device)
        return self.mean(output) + self.scale * noise

    def output_for(self, mean: Tensor) -> Tensor:
        """The log-odds of the mean, same shape as `mean`."""
        return mean.logit()
