"""The decoder's distribution p(x|z) over images, from the decoder's output ("logits").

Each gives the log-likelihood of pixels x in [0, 1] and the mean image, which counts as the reconstruction.
"""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoders.base import Shape

Likelihood: TypeAlias = Literal["bernoulli", "logistic"]


class Bernoulli(nn.Module):
    """Each pixel is the probability of a binary pixel.

    For grayscale x the cross-entropy is the expected −log-likelihood of x's stochastic binarisation, so the bound it
    gives is one on dynamically binarised images.
    """

    def mean(self, logits: Tensor) -> Tensor:
        """E[x|z], same shape as `logits`."""
        return logits.sigmoid()

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """−log p(x|z) in nats per image, shape (B,)."""
        return F.binary_cross_entropy_with_logits(logits.float(), x, reduction="none").flatten(1).sum(1)


class Logistic(nn.Module):
    """A logistic distribution over the 256 pixel values with one learned scale (Kingma et al. 2016, appendix C).

    The mass of each value's bin is exact, so bits per dimension compare with published ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-3.0))

    def mean(self, logits: Tensor) -> Tensor:
        """The distribution's location, same shape as `logits`."""
        return logits.sigmoid()

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        """−log P(x|z) in nats per image, shape (B,)."""
        scale = self.log_scale.clamp(min=-7.0).exp()
        upper = (x - logits.float().sigmoid() + 0.5 / 255) / scale
        width = 1 / 255 / scale
        lower = upper - width
        below = F.logsigmoid(upper)  # the darkest value takes the whole lower tail,
        above = F.logsigmoid(-lower)  # the brightest one the whole upper tail,
        inside = below + above + torch.log(-torch.expm1(-width))  # log(σ(upper) − σ(lower)) without cancellation
        log_mass = torch.where(x <= 0, below, torch.where(x >= 1, above, inside))
        return -log_mass.flatten(1).sum(1)


LIKELIHOODS: dict[Likelihood, type[Bernoulli | Logistic]] = {"bernoulli": Bernoulli, "logistic": Logistic}


def bits_per_dim(nats: float, image: Shape) -> float:
    """Nats per image as bits per image dimension."""
    return nats / (math.prod(image) * math.log(2))
