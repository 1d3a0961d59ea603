"""Base class of likelihoods. A likelihood is the distribution p(x|z) of an image x for a code z.

The decoder's output has the parameters of the distribution. The values of x are in [0, 1]. A value is one channel of
one pixel.

Dimensions: B batch, C image channels, P decoder outputs for each value of an image, (H, W) image size.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn

from aelab.core.registry import Registry
from aelab.models.base import Capability, Shape


class Likelihood(nn.Module, ABC):
    """Distribution p(x|z) of independent pixels, whose parameters are the decoder's output (B, C·P, H, W).

    Attributes:
        channels: P, the number of decoder outputs for each value of an image.
        pixels: the kind of pixel, "Bernoulli", "8-bit" or "continuous". Values of log p(x|z) for different kinds of
            pixels cannot be compared.
        undefined: the capabilities of models (`base.Capability`) that have no meaning under this likelihood, each with
            the reason.
    """

    channels: ClassVar[int] = 1
    pixels: ClassVar[str]
    undefined: ClassVar[Mapping[Capability, str]] = {}

    @abstractmethod
    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Compute log p(x|z).

        Args:
            output: the decoder's output, (B, C·P, H, W).
            x: images (B, C, H, W) with values in [0, 1].

        Returns:
            log p(x|z) in nats per image, (B,).
        """

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Compute the mean image E[x|z].

        Args:
            output: the decoder's output, (B, C·P, H, W).

        Returns:
            Images (B, C, H, W) with values in [0, 1].
        """

    @abstractmethod
    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw images x ~ p(x|z).

        Args:
            output: the decoder's output, (B, C·P, H, W).
            generator: the random generator for the draws, on the device of `output`.

        Returns:
            Images (B, C, H, W).
        """

    @abstractmethod
    def output_for(self, mean: Tensor) -> Tensor:
        """Compute the decoder's output for which E[x|z] is about `mean`.

        Args:
            mean: the mean of each channel, (C,), between 0 and 1.

        Returns:
            The output, which is equal for all pixels, (C·P,).
        """


LIKELIHOODS: Registry[Likelihood] = Registry("aelab.likelihoods", Likelihood, "likelihood")  # type: ignore[type-abstract]
LikelihoodSection: TypeAlias = Annotated[
    dict[str, Any],
    LIKELIHOODS,
    Field(
        description="distribution of a pixel: bernoulli (gray value = probability of white), logistic or "
        "categorical (256 values), or gaussian (a density with a learned variance)"
    ),
]


def bits_per_dim(nats: float, image: Shape) -> float:
    """Convert nats per image of shape `image` to bits per value."""
    return nats / (math.prod(image) * math.log(2))


def bound_by_image(distortion: Tensor, rate: Tensor, image: Shape) -> dict[str, Tensor]:
    """Compute −ELBO = distortion + rate of each image, also in bits per dimension.

    Args:
        distortion: −log p(x|z) of each image in nats, averaged over samples z, (N,).
        rate: the cost of each image's code under the prior in nats, (N,).
        image: (C, H, W) of the images.

    Returns:
        −ELBO, rate, distortion and bits per dimension, by the name of the metric, (N,) each.
    """
    neg_elbo = distortion + rate
    bits = neg_elbo / (math.prod(image) * math.log(2))
    return {"neg_elbo": neg_elbo, "rate": rate, "distortion": distortion, "bits_per_dim": bits}
