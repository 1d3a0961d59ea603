"""Base class of likelihoods: the decoder's distribution p(x|z) over the pixels x of an image, values in [0, 1].

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
    """Distribution p(x|z) of independent pixels, with the decoder's output (B, C·P, H, W) as its parameters.

    Attributes:
        channels: P, the number of decoder outputs for each value of an image.
        pixels: the kind of pixel, "Bernoulli", "8-bit" or "continuous". Likelihoods for different kinds of pixels
            cannot be compared.
        undefined: the capabilities that have no meaning under this likelihood, each with the reason.
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
            generator: the source of the draws, on the device of `output`.

        Returns:
            Images (B, C, H, W).
        """

    @abstractmethod
    def output_for(self, mean: Tensor) -> Tensor:
        """Compute the decoder's output for which E[x|z] is about `mean`.

        Args:
            mean: the mean of each channel, (C,), between 0 and 1.

        Returns:
            The output for every pixel, (C·P,).
        """


LIKELIHOODS: Registry[Likelihood] = Registry("aelab.likelihoods", Likelihood, "likelihood")  # type: ignore[type-abstract]
LikelihoodSection: TypeAlias = Annotated[
    dict[str, Any],
    LIKELIHOODS,
    Field(
        description="distribution of a pixel: bernoulli (the pixel is a probability), logistic or categorical "
        "(256 values), or gaussian (a density with a learned variance)"
    ),
]


def bits_per_dim(nats: float, image: Shape) -> float:
    """Convert nats per image to bits per value of an image."""
    return nats / (math.prod(image) * math.log(2))


def bound_by_image(distortion: Tensor, rate: Tensor, image: Shape) -> dict[str, Tensor]:
    """Compute the four metrics of −ELBO for each image from distortion and rate in nats: (N,) each."""
    neg_elbo = distortion + rate
    bits = neg_elbo / (math.prod(image) * math.log(2))
    return {"neg_elbo": neg_elbo, "rate": rate, "distortion": distortion, "bits_per_dim": bits}
