"""What the pipeline asks of a variant: everything it trains, evaluates and draws goes through `Autoencoder`.

Dimensions: B batch, C image channels, (H, W) image size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

Shape: TypeAlias = tuple[int, int, int]  # (C, H, W) of an image
# What only some variants define: metrics, and figures ("samples", "code_usage").
PROBABILISTIC_METRICS = ("neg_elbo", "rate", "distortion", "bits_per_dim", "active_units", "samples")
CODEBOOK_METRICS = ("neg_elbo_uniform", "rate_uniform", "perplexity", "codes_used", "code_distance", "code_usage")

Losses: TypeAlias = dict[str, Tensor]  # "loss" is what is minimised, the rest its named parts; each a batch mean


class Learner(nn.Module, ABC):
    """Something that `training.fit` can train."""

    @abstractmethod
    def loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Losses:
        """The named losses of one batch.

        Args:
            inputs: what the module sees.
            targets: what it is to give back; the same as `inputs` unless they were corrupted.
            generator: the source of all randomness, on the device of `inputs`.
        """


@dataclass(frozen=True)
class Phase:
    """One training: `module` learns to give back what `represent` makes of the images."""

    name: str
    module: Learner
    represent: Callable[[Tensor], Tensor] | None = None  # None: the images themselves, (B, C, H, W)
    training: Mapping[str, Any] = field(default_factory=dict)  # overrides of the variant's training parameters


class Autoencoder(Learner):
    """An encoder and a decoder of images x with values in [0, 1], shape (B, C, H, W).

    A variant is one file in `autoencoders.variants` with one subclass. The arguments of its constructor after `image`
    are its keys in `params.yaml`; their annotations say what is allowed there.

    Attributes:
        inputs: what it has to see in training, "clean" or "corrupted" images; None leaves it to the parameters.
        undefined: the metrics and figures that this variant has no definition of, each with the reason.
    """

    inputs: ClassVar[str | None] = None
    undefined: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (*PROBABILISTIC_METRICS, *CODEBOOK_METRICS), "the variant does not define it"
    )

    def __init__(self, image: Shape) -> None:
        super().__init__()
        self.image = image

    def start_from(self, x: Tensor) -> None:
        """Set what is best set from training images x before the first step."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The code of each image before any noise or rounding: (B, d) or, on a grid, (B, D, h, w)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The image of each code, values in [0, 1], shape (B, C, H, W)."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """x′, shape (B, C, H, W)."""
        return self.decode(self.encode(x))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` images from the model's prior, shape (count, C, H, W); only where "samples" is not undefined."""
        raise NotImplementedError

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> dict[str, float]:  # noqa: ARG002
        """The metrics that only this variant defines, over a whole split given as `batches` of images."""
        return {}

    def code_counts(self, batches: Iterable[Tensor]) -> Tensor:
        """How often each code of a codebook is used, shape (K,); only where "code_usage" is not undefined."""
        raise NotImplementedError

    def phases(self) -> list[Phase]:
        """The trainings that make up this variant, in order."""
        return [Phase("autoencoder", self)]
