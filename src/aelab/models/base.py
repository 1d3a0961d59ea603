"""What the pipeline asks of a variant: everything it trains, evaluates and draws goes through `Autoencoder`.

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
Latent: TypeAlias = Tensor | tuple[Tensor, ...]  # several tensors where a model has several stochastic layers
Losses: TypeAlias = dict[str, Tensor]  # "loss" is what is minimised, the rest its named parts; each a batch mean
Capability: TypeAlias = Literal[  # what only some variants define
    "bound",  # −ELBO and what it is made of: q(z|x), p(z) and p(x|z)
    "importance",  # weights p(x, z)/q(z|x) that differ from draw to draw: `log_weights`
    "units",  # latent dimensions that can be active or not
    "kl_per_dimension",
    "samples",  # images from a prior: `sample`
    "codebook",  # codes that can be counted: `code_counts`
    "reconstruction",  # images that differ from what the model was given
    "direction",  # numbers in the code that can be turned one at a time
    "bits_per_dim",  # probabilities of pixels, not densities
]


@dataclass(frozen=True)
class Batch:
    """What a loss is computed from. All of it lies on the device: a CUDA graph freezes any number that a loss reads on
    the host.
    """

    inputs: Tensor  # what the module sees
    targets: Tensor  # what it is to give back; the same as `inputs` unless they were corrupted
    generator: torch.Generator  # the source of all randomness
    step: Tensor  # optimiser steps done before this one, () int64; all of them in validation
    steps: int  # of the whole training
    samples: int  # that the training has to learn from (N), also in validation

    def ramp(self, share: float) -> Tensor:
        """A weight that grows from 0 to 1 over the first `share` of the training and stays there, shape ()."""
        return ((self.step + 1) / max(share * self.steps, 1.0)).clamp(max=1.0)


class Learner(nn.Module, ABC):
    """Something that `training.loop.fit` can train."""

    @abstractmethod
    def loss(self, batch: Batch) -> Losses:
        """The named losses of one batch."""


@dataclass(frozen=True)
class Phase:
    """One training: `module` learns to give back what `represent` makes of the images."""

    name: str
    module: Learner
    represent: Callable[[Tensor], Tensor] | None = None  # None: the images themselves, (B, C, H, W)
    training: Mapping[str, Any] = field(default_factory=dict)  # overrides of the entry's training parameters


class Autoencoder(Learner):
    """An encoder and a decoder of images x with values in [0, 1], shape (B, C, H, W).

    A variant is one file in `aelab.variants` with one subclass. The keyword arguments of its constructor are
    its keys in `params.yaml`; their annotations say what is allowed there.

    Attributes:
        inputs: what it has to see in training, "clean" or "corrupted" images, however corrupted; None leaves it to the
            parameters.
        undefined: the capabilities that this variant has no definition of, each with the reason. What metrics and
            figures each of them means stands in `metric_names.METRICS_OF`.
        floor: whether there is nothing to train, and nothing drawn: a floor shows what others' training gives, is the
            same for every seed, and is never ranked.
        pixels: what a pixel is to the likelihood, "Bernoulli", "8-bit" or "continuous"; bounds on different ones cannot
            be compared.
        configuration: what `checkpoint.build` made it from.
        code_shapes: of the tensors of one image's code, where `encode` and `decode` check what they are given, as for a
            notebook; None: they do not, since to look at values is to wait for a GPU.
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
        """Have the class's own `encode` and `decode` check what they are given, where that is asked for."""
        super().__init_subclass__(**keywords)
        for name in doors.CHECKS.keys() & vars(cls).keys():
            setattr(cls, name, doors.door(vars(cls)[name], doors.CHECKS[name]))

    def __init__(self, image: Shape) -> None:
        super().__init__()
        self.image = image

    @contextmanager
    def unchecked(self) -> Iterator[None]:
        """Within this context no method checks what it is given: who opens it has seen to that."""
        shapes, self.code_shapes = self.code_shapes, None
        try:
            yield
        finally:
            self.code_shapes = shapes

    @property
    def start_images(self) -> int:
        """How many training images `start_from` gets at most, evenly spread: a mean colour needs no more."""
        return 1000

    def start_from(self, x: Tensor) -> None:
        """Set what is best set from training images x before the first step."""

    @abstractmethod
    def encode(self, x: Tensor) -> Latent:
        """The code of each image before any noise or rounding: (B, d) or, on a grid, (B, D, h, w); or several."""

    @abstractmethod
    def decode(self, z: Any) -> Tensor:
        """The image of each code, values in [0, 1], shape (B, C, H, W)."""

    def code_of(self, x: Tensor) -> Latent:
        """What the decoder is given of each image, without noise; probes look for the images' classes in it."""
        return self.encode(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """x′, shape (B, C, H, W)."""
        return self.decode(self.encode(x))

    def log_weights(self, inputs: Tensor, targets: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """log of the importance weights p(targets, z)/q(z|inputs) at `samples` draws z ~ q(z|inputs), shape
        (B, samples); only where "importance" is not undefined.
        """
        raise NotImplementedError

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` images from the model's prior, shape (count, C, H, W); only where "samples" is not undefined."""
        raise NotImplementedError

    def measure(self, batches: Iterable[Tensor], generator: torch.Generator) -> dict[str, float]:  # noqa: ARG002
        """The metrics that only this variant defines, over a whole split given as `batches` of images."""
        return {}

    def symptoms(self, values: Mapping[str, float]) -> list[str]:  # noqa: ARG002
        """What is wrong with the model, in sentences, going by its metrics `values`."""
        return []

    def kl_per_dimension(self, batches: Iterable[Tensor]) -> Tensor:
        """E_x KL(q(z_j|x) ‖ p(z_j)) of each latent dimension in nats, shape (d,); only where "kl_per_dimension" is not
        undefined.
        """
        raise NotImplementedError

    def code_counts(self, batches: Iterable[Tensor]) -> Tensor:
        """How often each code of a codebook is used, shape (K,); only where "codebook" is not undefined."""
        raise NotImplementedError

    def phases(self) -> list[Phase]:
        """The trainings that make up this variant, in order; none where `start_from` sets all that there is."""
        return [Phase("autoencoder", self)]


def check_model(model: object) -> None:
    """See that a model is one; raises `UserError` where something else came in its place."""
    if not isinstance(model, Autoencoder):
        msg = f"a model is what aelab.build or aelab.load gives; what came is {next(described(model))}"
        raise UserError(msg)


VARIANTS: Registry[Autoencoder] = Registry("aelab.variants", Autoencoder, "model")  # type: ignore[type-abstract]
