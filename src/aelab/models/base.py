"""Base class of all models, `Autoencoder`, and the classes for training: `Learner`, `Batch` and `Phase`.

A variant is a kind of model, such as the VAE. Each variant is a subclass of `Autoencoder`. The pipeline trains and
evaluates every variant through the methods of `Autoencoder`.

Dimensions: B batch, C image channels, (H, W) image size. A code is a vector of d numbers, or a grid (h, w) of vectors
with D numbers each.
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
Latent: TypeAlias = Tensor | tuple[Tensor, ...]  # Codes of a batch. A model with several stochastic layers has a tuple.
Losses: TypeAlias = dict[str, Tensor]  # Training minimises "loss". The other losses are only recorded.
Capability: TypeAlias = Literal[  # What only some variants can do or compute. Many metrics need a capability.
    "bound",  # −ELBO, from q(z|x), p(z) and p(x|z).
    "importance",  # Importance weights p(x, z)/q(z|x) of random draws z ~ q(z|x): `log_weights`.
    "units",  # Latent dimensions that are active or inactive.
    "kl_per_dimension",  # KL(q(z_j|x) ‖ p(z_j)) of each latent dimension z_j: `kl_per_dimension`.
    "samples",  # Images drawn from a prior: `sample`.
    "codebook",  # A codebook, whose used codes can be counted: `code_counts`.
    "reconstruction",  # Reconstructions that differ from the input.
    "direction",  # Numbers in the code that can be varied one at a time.
    "bits_per_dim",  # Probabilities of pixel values. A density gives no bits per dimension.
]


@dataclass(frozen=True)
class Batch:
    """A mini-batch, and the training step to which it belongs. A loss may depend on nothing else.

    All tensors are on the device of the training. A loss must not use a Python number that changes during the training:
    a CUDA graph would use the number's first value in all steps.

    Attributes:
        inputs: images or codes that enter the module, (B, …).
        targets: images or codes that the module must reproduce, (B, …). The targets equal `inputs`, unless the inputs
            are corrupted.
        generator: the random generator for all draws.
        step: number of optimiser steps before this step, () int64. In validation, the number equals `steps`.
        steps: total number of optimiser steps of the training.
        samples: N, the number of images in the training split; the number is the same in validation.
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
            share: the first part's share of the training steps, from 0 to 1. With 0, the weight is always 1.

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
            batch: the mini-batch and its training step.

        Returns:
            The losses by name: means over the mini-batch, each of shape (). Training minimises "loss".
        """


@dataclass(frozen=True)
class Phase:
    """One phase of a model's training: one module learns images, or codes of images.

    For example, a VQ-VAE has two phases. The first trains the autoencoder, the second the prior of the codes.

    Attributes:
        name: the phase's name in results and progress lines.
        module: the module to train.
        represent: maps images (B, C, H, W) to the integer codes that the module learns; None if the module learns the
            images.
        training: training parameters, by key, that replace the model's training parameters in this phase.
    """

    name: str
    module: Learner
    represent: Callable[[Tensor], Tensor] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


class Autoencoder(Learner):
    """Base class of all variants: an encoder and a decoder of images x, (B, C, H, W), with values in [0, 1].

    Each file in `aelab.variants` defines one variant as a subclass. The keyword arguments of the subclass's constructor
    are the variant's keys in `params.yaml`. The annotations of the arguments say which values are allowed.

    Args:
        image: (C, H, W) of the images.

    Attributes:
        inputs: the kind of images that the encoder must get in training, "clean" or "corrupted"; None if both kinds are
            allowed.
        undefined: the capabilities that the variant lacks, each with the reason. `metric_names.METRICS_OF` lists the
            metrics and figures that need each capability.
        floor: whether the variant is a floor: a baseline that needs no training and no random numbers, and shows how
            much the other models gain by training. A floor is never ranked.
        pixels: the kind of pixel in p(x|z), "Bernoulli", "8-bit" or "continuous"; None without a likelihood. Values of
            −ELBO for different kinds of pixels cannot be compared.
        configuration: the arguments with which `checkpoint.build` built the model.
        code_shapes: the shape of each tensor in the code of one image, without the batch. If `aelab.notebook` has set
            the shapes, `encode` and `decode` check their arguments. With None, as in the pipeline, nothing is checked,
            because a check would wait for the GPU.
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
        """Add the checks of `doors.py` to the methods `encode` and `decode` that a subclass defines."""
        super().__init_subclass__(**keywords)
        for name in doors.CHECKS.keys() & vars(cls).keys():
            setattr(cls, name, doors.door(vars(cls)[name], doors.CHECKS[name]))

    def __init__(self, image: Shape) -> None:
        super().__init__()
        self.image = image

    @contextmanager
    def unchecked(self) -> Iterator[None]:
        """Switch off the checks of `encode` and `decode` in a `with` block, for arguments that are known to be right.

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
        """Maximum number of training images for `start_from`. The default is enough to estimate a mean colour."""
        return 1000

    def start_from(self, x: Tensor) -> None:
        """Set the parameters whose initial values depend on the data, before the first training step.

        Args:
            x: training images (B, C, H, W), evenly spread over the training split, with values in [0, 1].
        """

    @abstractmethod
    def encode(self, x: Tensor) -> Latent:
        """Encode images, without noise and without quantisation.

        Args:
            x: images (B, C, H, W) with values in [0, 1].

        Returns:
            The codes, (B, d) or (B, D, h, w). A model with several stochastic layers returns a tuple of codes.

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
            inputs: images that enter the encoder, (B, C, H, W).
            targets: images whose likelihood is computed, (B, C, H, W).
            samples: number of draws z ~ q(z|inputs) for each image.
            generator: the random generator for the draws, on the model's device.

        Returns:
            The logarithms in nats, (B, samples).

        Raises:
            NotImplementedError: "importance" is in `undefined`.
        """
        raise NotImplementedError

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw images from the model's prior.

        Args:
            count: number of images.
            generator: the random generator for the draws, on the model's device.

        Returns:
            Images (count, C, H, W) with values in [0, 1].

        Raises:
            NotImplementedError: "samples" is in `undefined`.
        """
        raise NotImplementedError

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> dict[str, float]:  # noqa: ARG002
        """Measure the metrics that only this variant defines.

        Args:
            batches: all images of a split, as mini-batches (B, C, H, W).
            generator: the random generator for draws, on the model's device.

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
            batches: all images of a split, as mini-batches (B, C, H, W).

        Returns:
            The means over all images in nats, (d,).

        Raises:
            NotImplementedError: "kl_per_dimension" is in `undefined`.
        """
        raise NotImplementedError

    def code_counts(self, batches: Iterable[Tensor]) -> Tensor:
        """Count how often the images use each of the K codes of the codebook.

        Args:
            batches: all images of a split, as mini-batches (B, C, H, W).

        Returns:
            The counts, (K,).

        Raises:
            NotImplementedError: "codebook" is in `undefined`.
        """
        raise NotImplementedError

    def phases(self) -> list[Phase]:
        """Return the phases of this variant's training, in order.

        Returns:
            The phases; an empty list if `start_from` sets all parameters.
        """
        return [Phase("autoencoder", self)]


def check_model(model: object) -> None:
    """Raise a `UserError` unless `model` is an `Autoencoder`."""
    if not isinstance(model, Autoencoder):
        msg = f"the model must come from aelab.build or aelab.load; got {next(described(model))}"
        raise UserError(msg)


VARIANTS: Registry[Autoencoder] = Registry("aelab.variants", Autoencoder, "model")  # type: ignore[type-abstract]
