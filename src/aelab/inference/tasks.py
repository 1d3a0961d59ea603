"""What a trained model does for those who use it, by name: the tasks of MLflow's server and of the command line.

Dimensions: B batch, C image channels, (H, W) image size, d numbers of a code as a row (`codec.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aelab.core.errors import UserError
from aelab.core.tensors import BATCH, device_of
from aelab.data.checks import seen
from aelab.data.datasets import Bytes
from aelab.evaluation import anomaly
from aelab.evaluation.metric_names import ANOMALY
from aelab.inference.codec import Codec
from aelab.models.base import Autoencoder
from aelab.models.latent import line

MOST = 10_000  # images that one request may ask for


@dataclass(frozen=True)
class Options:
    """What a task may be told beside the images."""

    seed: int = 0  # of samples
    count: int = 1  # of samples
    steps: int = 10  # of an interpolation, both ends included
    codes: Sequence[float] = ()  # to decode, row after row
    by: str = ""  # of which score, by its name; "": the first that the model defines


@torch.no_grad()
def perform(model: Autoencoder, task: str, images: Tensor, options: Options) -> Tensor:
    """What `task` makes of images (B, C, H, W) with values in [0, 1]: see `TASKS`.

    Args:
        model: in evaluation mode, on any device.
        task: one of `TASKS`.
        images: B may be 0; a task that has no use for them leaves them as they are.
        options: the others that the task needs.

    Raises:
        UserError: there is no such task, the model does not define it, or the images or options do not fit.
    """
    if task not in TASKS:
        msg = f"there is no task {task!r}; there are {', '.join(TASKS)}"
        raise UserError(msg)
    return TASKS[task](model, seen(images.float(), model.image).to(device_of(model)), options)


def batched(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of x, a few rows at a time; of none it is the same function of none."""
    return torch.cat([function(each) for each in x.split(BATCH)])


def as_bytes(images: Tensor) -> Bytes:
    """A model's images as files hold them: floats in [0, 1] become uint8, same shape."""
    return (images * 255).round().to(torch.uint8).cpu().numpy()


@torch.no_grad()
def sample(model: Autoencoder, count: int, seed: int) -> Tensor:
    """`count` images from the model's prior, shape (count, C, H, W); the same for the same count and seed.

    Raises:
        UserError: the model has no prior, or the count is none.
    """
    if "samples" in model.undefined:
        msg = f"this model cannot sample: {model.undefined['samples']}"
        raise UserError(msg)
    _check_count("count", count, 1)
    generator = torch.Generator(device_of(model)).manual_seed(seed)
    sizes = [min(BATCH, count - start) for start in range(0, count, BATCH)]
    return torch.cat([model.sample(size, generator) for size in sizes])


def interpolate(model: Autoencoder, images: Tensor, steps: int) -> Tensor:
    """The images at `steps` codes evenly along the straight line between those of two images, both included.

    Shapes: (2, C, H, W) → (steps, C, H, W).
    """
    if len(images) != 2:  # noqa: PLR2004 - a line has two ends
        msg = f"an interpolation is between 2 images, not {len(images)}"
        raise UserError(msg)
    _check_count("steps", steps, 2)
    return model.decode(line(model.encode(images), 0, 1, steps))


def picked(model: Autoencoder, by: str) -> str:
    """The score `by`, or the first that the model defines where that is "".

    Raises:
        UserError: there is no such score, or the model does not define it.
    """
    there = anomaly.defined(model)
    if by in there or (not by and there):
        return by or there[0]
    if by and by not in ANOMALY:
        why = f"there is no score {by!r}"
    else:
        name = by or next(iter(ANOMALY))
        why = f"this model has no score {name}: {anomaly.undefined(model)[name]}"
    msg = f"{why}; it has {', '.join(there) or 'none'}"
    raise UserError(msg)


def score(model: Autoencoder, images: Tensor, by: str) -> Tensor:
    """How strange each image is by one score of `anomaly.py`: (B, C, H, W) → (B,)."""
    name, generator = picked(model, by), torch.Generator(device_of(model)).manual_seed(0)
    if not len(images):
        return images.new_zeros(0)
    return batched(lambda x: anomaly.scores(model, x, generator, [name])[name], images)


def decode(model: Autoencoder, codes: Sequence[float]) -> Tensor:
    """The images of codes that are given row after row: B·d numbers → (B, C, H, W)."""
    codec = Codec(model)
    numbers = torch.tensor(codes, dtype=torch.float64)
    if len(numbers) % codec.width:
        msg = f"codes of this model are rows of {codec.width} numbers; {len(numbers)} are no whole number of them"
        raise UserError(msg)
    return batched(codec.decode, codec.checked(numbers.view(-1, codec.width)).to(device_of(model)))


def _check_count(name: str, value: int, least: int) -> None:
    if not least <= value <= MOST:
        msg = f"{name} is {value}: must be from {least} to {MOST}"
        raise UserError(msg)


Task = Callable[[Autoencoder, Tensor, Options], Tensor]
TASKS: Mapping[str, Task] = {
    "reconstruct": lambda model, x, _: batched(model.reconstruct, x),  # (B, C, H, W)
    "encode": lambda model, x, _: batched(Codec(model).encode, x),  # (B, d)
    "decode": lambda model, _, options: decode(model, options.codes),  # (B, C, H, W)
    "sample": lambda model, _, options: sample(model, options.count, options.seed),  # (count, C, H, W)
    "interpolate": lambda model, x, options: interpolate(model, x, options.steps),  # (steps, C, H, W)
    "score": lambda model, x, options: score(model, x, options.by),  # (B,)
}
