"""What a likelihood has to give: the decoder's distribution p(x|z) over the pixels x of an image, values in [0, 1].

Dimensions: B batch, C image channels, P outputs of the decoder for each image dimension, (H, W) image size.
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
    """p(x|z) of independent pixels, from the decoder's output, shape (B, C·P, H, W).

    Attributes:
        channels: P.
        pixels: what a pixel is to this distribution; likelihoods of different pixels cannot be compared.
        undefined: the capabilities that have no meaning under it, each with the reason.
    """

    channels: ClassVar[int] = 1
    pixels: ClassVar[str]
    undefined: ClassVar[Mapping[Capability, str]] = {}

    @abstractmethod
    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """log p(x|z) in nats per image: (B, C·P, H, W) and (B, C, H, W) → (B,)."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """E[x|z]: (B, C·P, H, W) → (B, C, H, W)."""

    @abstractmethod
    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """x ~ p(x|z): (B, C·P, H, W) → (B, C, H, W)."""

    @abstractmethod
    def output_for(self, mean: Tensor) -> Tensor:
        """The decoder's output for which `mean` is about E[x|z]: (C,) → (C·P,)."""


LIKELIHOODS: Registry[Likelihood] = Registry("aelab.likelihoods", Likelihood, "likelihood")  # type: ignore[type-abstract]
LikelihoodSection: TypeAlias = Annotated[
    dict[str, Any],
    LIKELIHOODS,
    Field(
        description="of a pixel: bernoulli (its value is a probability), logistic or categorical (256 values), or "
        "gaussian (a density, with a learned variance)"
    ),
]


def bits_per_dim(nats: float, image: Shape) -> float:
    """Nats per image as bits per image dimension."""
    return nats / (math.prod(image) * math.log(2))


def bound_by_image(distortion: Tensor, rate: Tensor, image: Shape) -> dict[str, Tensor]:
    """What a bound is of each image, by metric, from its two parts in nats: (N,) each."""
    neg_elbo = distortion + rate
    bits = neg_elbo / (math.prod(image) * math.log(2))
    return {"neg_elbo": neg_elbo, "rate": rate, "distortion": distortion, "bits_per_dim": bits}
