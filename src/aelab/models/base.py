"""Base class of all variants, `Autoencoder`, and the parts of a training: `Learner`, `Batch` and `Phase`.

The pipeline trains, evaluates and draws every variant through the methods of `Autoencoder`.

Dimensions: B batch, C image channels, (H, W) image size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn

from aelab.core.errors import UserError
from aelab.core.registry import Registry
from aelab.data.checks import described
from aelab.models import doors

Shape: TypeAlias = tuple[int, int, int]  # (C, H, W) of an image
CodeSize: TypeAlias = Annotated[int, Field(gt=0, description="numbers in the code z")]
Latent: TypeAlias = Tensor | tuple[Tensor, ...]  # A tuple for several stochastic layers.
Losses: TypeAlias = dict[str, Tensor]  # Training minimises "loss". The other losses are only recorded.
Capability: TypeAlias = Literal[  # Many metrics need a capability, which only some variants have.
    "bound",  # −ELBO, from q(z|x), p(z) and p(x|z).
    "importance",  # Weights p(x, z)/q(z|x) that differ between draws: `log_weights`.
    "units",  # Latent dimensions, each of which is active or not.
    "kl_per_dimension",
    "samples",  # Images from a prior: `sample`.
    "codebook",  # Codes that can be counted: `code_counts`.
    "reconstruction",  # Reconstructions that differ from the input.
    "direction",  # Numbers of the code that can be varied one at a time.
    "bits_per_dim",  # Probabilities of pixels, not densities.
]


@dataclass(frozen=True)
class Batch:
    """A mini-batch and the position in the training: all that a loss may depend on.

    All tensors are on the device of the training. A loss must not read a number that changes on the host, because a
    CUDA graph would always use the first value of that number.

    Attributes:
        inputs: images or codes that the module sees, (B, …).
        targets: images or codes that the module must reproduce, (B, …); equal to `inputs` without a corruption.
        generator: the source of all randomness.
        step: number of optimiser steps before this step, () int64. In validation the number equals `steps`.
        steps: optimiser steps of the whole training.
        samples: N, the number of training samples, also in validation.
    """

    inputs: Tensor
    targets: Tensor
    generator: torch.Generator
    step: Tensor
    steps: int
    samples: int

    def ramp(self, share: float) -> Tensor:
        """Return a weight that grows linearly to 1 over the first part of the training and then stays 1.

        Args:
            share: the length of the first part as a share of the training, from 0 to 1. With 0 the weight is always 1.

        Returns:
            The weight of this step, shape ().
        """
        return ((self.step + 1) / max(share * self.steps, 1.0)).clamp(max=1.0)


class Learner(nn.Module, ABC):
    """A module that `training.loop.fit` can train."""

    @abstractmethod
    def loss(self, batch: Batch) -> Losses:
        """Compute the losses of a mini-batch.

        Args:
            batch: the mini-batch and the position in the training.

        Returns:
            Means over the mini-batch by name, each of shape (). Training minimises "loss".
        """


@dataclass(frozen=True)
class Phase:
    """The training of one module, on images or on codes of images.

    Attributes:
        name: the phase's name in results and progress lines.
        module: the module to train.
        represent: maps images (B, C, H, W) to the integer codes that the module learns; None if it learns the images.
        training: values that replace the entry's training parameters in this phase.
    """

    name: str
    module: Learner
    represent: Callable[[Tensor], Tensor] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


class Autoencoder(Learner):
    """Base class of all variants: an encoder and a decoder of images x, (B, C, H, W), with values in [0, 1].

    A variant is one file in `aelab.variants` with one subclass. The keyword arguments of its constructor are the
    variant's keys in `params.yaml`. The annotations of the arguments say which values are allowed.

    Args:
        image: (C, H, W) of the images.

    Attributes:
        inputs: the images that the variant must see in training, "clean" or "corrupted"; None if it may see either.
        undefined: the capabilities that the variant lacks, each with the reason. `metric_names.METRICS_OF` lists the
            metrics and figures that need each capability.
        floor: whether the variant is a baseline without training and without randomness. A floor is the same for every
            seed and is never ranked. Floors show how much the other models gain by training.
        pixels: the likelihood's kind of pixel, "Bernoulli", "8-bit" or "continuous". Bounds for different kinds of
            pixels cannot be compared. None if there is no likelihood.
        configuration: the arguments of `checkpoint.build` that made the model.
        code_shapes: the shapes of the tensors of one image's code. If `aelab.notebook` has set the shapes, `encode` and
            `decode` check their argument. None switches the checks off, because a check would wait for a GPU.
    """

    inputs: ClassVar[str | None] = None
    undefined: Mapping[Capability, str] = dict.fromkeys(
        ("bound", "samples", "kl_per_dimension", "codebook"), "the variant does not define it"
    )
    floor: ClassVar[bool] = False
    pixels: str | None = None
    configuration: dict[str, Any]
    code_shapes: Sequence[Sequence[int]] | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Wrap the class's own `encode` and `decode` in the checks of `doors`."""
        super().__init_subclass__(**keywords)
        for name in doors.CHECKS.keys() & vars(cls).keys():
            setattr(cls, name, doors.door(vars(cls)[name], doors.CHECKS[name]))

    def __init__(self, image: Shape) -> None:
        super().__init__()
        self.image = image

    @contextmanager
    def unchecked(self) -> Iterator[None]:
        """Skip the checks of `encode` and `decode` in a `with` block, because the caller has checked the arguments.

        Yields:
            Nothing. After the block, `code_shapes` has its old value again.
        """
        shapes, self.code_shapes = self.code_shapes, None
        try:
            yield
        finally:
            self.code_shapes = shapes

    @property
    def start_images(self) -> int:
        """Largest number of training images that `start_from` receives; the default is enough for a mean colour."""
        return 1000

    def start_from(self, x: Tensor) -> None:
        """Initialise the parameters that depend on the data, before the first training step.

        Args:
            x: training images (B, C, H, W), evenly spread over the training split, with values in [0, 1].
        """

    @abstractmethod
    def encode(self, x: Tensor) -> Latent:
        """Encode images, without noise or rounding.

        Args:
            x: images (B, C, H, W) with values in [0, 1].

        Returns:
            The codes (B, d), or (B, D, h, w) on a grid. A model with several stochastic layers returns a tuple.

        Raises:
            UserError: `code_shapes` is set and the images do not fit the model.
        """

    @abstractmethod
    def decode(self, z: Any) -> Tensor:
        """Decode codes into images.

        Args:
            z: codes, as `encode` returns them.

        Returns:
            Images (B, C, H, W) with values in [0, 1].

        Raises:
            UserError: `code_shapes` is set and the codes do not fit the model.
        """

    def code_of(self, x: Tensor) -> Latent:
        """Return the decoder's input for each image, without noise. The linear probe uses this code.

        Args:
            x: images (B, C, H, W) with values in [0, 1].

        Returns:
            The output of `encode`, or the quantised vectors of a VQ-VAE.
        """
        return self.encode(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Encode and decode images, without noise.

        Args:
            x: images (B, C, H, W) with values in [0, 1].

        Returns:
            The reconstructions x′, (B, C, H, W), with values in [0, 1].
        """
        return self.decode(self.encode(x))

    def log_weights(self, inputs: Tensor, targets: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """Return the logarithms of importance weights p(targets, z)/q(z|inputs).

        Args:
            inputs: images that the encoder sees, (B, C, H, W).
            targets: images whose likelihood is computed, (B, C, H, W).
            samples: draws z ~ q(z|inputs) for each image.
            generator: the source of the draws, on the model's device.

        Returns:
            The logarithms in nats, (B, samples).

        Raises:
            NotImplementedError: "importance" is in `undefined`.
        """
        raise NotImplementedError

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw images from the model's prior.

        Args:
            count: images to draw.
            generator: the source of the draws, on the model's device.

        Returns:
            Images (count, C, H, W) with values in [0, 1].

        Raises:
            NotImplementedError: "samples" is in `undefined`.
        """
        raise NotImplementedError

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> dict[str, float]:  # noqa: ARG002
        """Measure the metrics that only this variant defines.

        Args:
            batches: a whole split, as mini-batches of images (B, C, H, W).
            generator: the source of the draws, on the model's device.

        Returns:
            The value of each metric, by name; empty in the base class.
        """
        return {}

    def symptoms(self, values: Mapping[str, float]) -> list[str]:  # noqa: ARG002
        """Describe what is wrong with the trained model, such as a collapsed codebook.

        Args:
            values: the metrics that `measure` returned.

        Returns:
            One sentence for each problem; empty if there is none.
        """
        return []

    def kl_per_dimension(self, batches: Iterable[Tensor]) -> Tensor:
        """Measure E_x KL(q(z_j|x) ‖ p(z_j)) of each latent dimension z_j.

        Args:
            batches: a whole split, as mini-batches of images (B, C, H, W).

        Returns:
            The means over all images in nats, (d,).

        Raises:
            NotImplementedError: "kl_per_dimension" is in `undefined`.
        """
        raise NotImplementedError

    def code_counts(self, batches: Iterable[Tensor]) -> Tensor:
        """Count how often each code of the codebook is used.

        Args:
            batches: a whole split, as mini-batches of images (B, C, H, W).

        Returns:
            The counts, (K,).

        Raises:
            NotImplementedError: "codebook" is in `undefined`.
        """
        raise NotImplementedError

    def phases(self) -> list[Phase]:
        """Return the phases of this variant's training, in order.

        Returns:
            The phases; none if `start_from` sets all parameters.
        """
        return [Phase("autoencoder", self)]


def check_model(model: object) -> None:
    """Raise a `UserError` unless `model` is an `Autoencoder`."""
    if not isinstance(model, Autoencoder):
        msg = f"the model must come from aelab.build or aelab.load; got {next(described(model))}"
        raise UserError(msg)


VARIANTS: Registry[Autoencoder] = Registry("aelab.variants", Autoencoder, "model")  # type: ignore[type-abstract]
