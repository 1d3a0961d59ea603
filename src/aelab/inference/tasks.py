"""Tasks that a trained model can perform: reconstruct, encode, decode, sample, interpolate and score.

The command `aelab` and MLflow's model server perform a task by its name.

Dimensions: B batch, C image channels, (H, W) image size, d numbers in the code of one image. `codec.py` turns the code
of each image into one row of numbers.
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

MOST = 10_000  # maximum number of images that one "sample" or "interpolate" may return


@dataclass(frozen=True)
class Options:
    """Options of all tasks. The comments say which task uses each option; the other tasks ignore the option."""

    seed: int = 0  # "sample": seed of the random generator.
    count: int = 1  # "sample": number of images.
    steps: int = 10  # "interpolate": number of images, including both ends.
    codes: Sequence[float] = ()  # "decode": the numbers of all codes, one code after the other.
    by: str = ""  # "score": name of the anomaly score; "" chooses the first score that the model defines.


@torch.no_grad()
def perform(model: Autoencoder, task: str, images: Tensor, options: Options) -> Tensor:
    """Perform one task with a trained model.

    Args:
        model: the trained model, in evaluation mode, on any device.
        task: name of the task, one of `TASKS`.
        images: (B, C, H, W), floats in [0, 1]. The tasks "decode" and "sample" ignore the images, so B may be 0.
        options: options of the task.

    Returns:
        Images, codes or scores. `TASKS` lists the shape of each task's result.

    Raises:
        UserError: there is no such task, the model does not define the task, or the images or options are wrong.
    """
    if task not in TASKS:
        msg = f"there is no task {task!r}; the tasks are {', '.join(TASKS)}"
        raise UserError(msg)
    return TASKS[task](model, seen(images.float(), model.image).to(device_of(model)), options)


def batched(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function to x in batches of at most `BATCH` images or codes, and concatenate the results.

    If x is empty, the function is called once, with an empty batch.
    """
    return torch.cat([function(each) for each in x.split(BATCH)])


def as_bytes(images: Tensor) -> Bytes:
    """Convert a model's images from floats in [0, 1] to uint8 from 0 to 255. The shape stays the same."""
    return (images * 255).round().to(torch.uint8).cpu().numpy()


@torch.no_grad()
def sample(model: Autoencoder, count: int, seed: int) -> Tensor:
    """Draw images from the model's prior. On one machine, equal seeds and counts give equal images.

    Args:
        model: the trained model, in evaluation mode, on any device.
        count: number of images, from 1 to `MOST`.
        seed: seed of the random generator.

    Returns:
        Images (count, C, H, W), floats in [0, 1].

    Raises:
        UserError: the model has no prior, or `count` is out of range.
    """
    if "samples" in model.undefined:
        msg = f"this model cannot sample: {model.undefined['samples']}"
        raise UserError(msg)
    _check_count("count", count, 1)
    generator = torch.Generator(device_of(model)).manual_seed(seed)
    sizes = [min(BATCH, count - start) for start in range(0, count, BATCH)]
    return torch.cat([model.sample(size, generator) for size in sizes])


def interpolate(model: Autoencoder, images: Tensor, steps: int) -> Tensor:
    """Decode evenly spaced codes on the straight line between the codes of two images.

    Args:
        model: the trained model, in evaluation mode, on any device.
        images: the two images, (2, C, H, W), floats in [0, 1].
        steps: number of codes, including the codes of the two images, from 2 to `MOST`.

    Returns:
        Images (steps, C, H, W), floats in [0, 1].

    Raises:
        UserError: the number of images is not 2, or `steps` is out of range.
    """
    if len(images) != 2:  # noqa: PLR2004 - a line has two ends
        msg = f"an interpolation needs 2 images; got {len(images)}"
        raise UserError(msg)
    _check_count("steps", steps, 2)
    return model.decode(line(model.encode(images), 0, 1, steps))


def picked(model: Autoencoder, by: str) -> str:
    """Return the name of the anomaly score to compute.

    Args:
        model: the trained model.
        by: name of the score; "" chooses the first score that the model defines.

    Raises:
        UserError: there is no score of this name, or the model does not define the score.
    """
    there = anomaly.defined(model)
    if by in there or (not by and there):
        return by or there[0]
    if by and by not in ANOMALY:
        why = f"there is no score {by!r}"
    else:
        name = by or next(iter(ANOMALY))
        why = f"this model has no score {name}: {anomaly.undefined(model)[name]}"
    msg = f"{why}; the scores of this model: {', '.join(there) or 'none'}"
    raise UserError(msg)


def score(model: Autoencoder, images: Tensor, by: str) -> Tensor:
    """Compute an anomaly score of each image, (B, C, H, W) → (B,). `picked` explains the argument `by`."""
    name, generator = picked(model, by), torch.Generator(device_of(model)).manual_seed(0)
    if not len(images):
        return images.new_zeros(0)
    return batched(lambda x: anomaly.scores(model, x, generator, [name])[name], images)


def decode(model: Autoencoder, codes: Sequence[float]) -> Tensor:
    """Decode B codes to images. `codes` has their B·d numbers, one code after the other: (B·d,) → (B, C, H, W)."""
    codec = Codec(model)
    numbers = torch.tensor(codes, dtype=torch.float64)
    if len(numbers) % codec.width:
        msg = f"codes of this model are rows of {codec.width} numbers; got {len(numbers)} numbers, which is no multiple"
        raise UserError(msg)
    return batched(codec.decode, codec.checked(numbers.view(-1, codec.width)).to(device_of(model)))


def _check_count(name: str, value: int, least: int) -> None:
    if not least <= value <= MOST:
        msg = f"{name} is {value}: must be from {least} to {MOST}"
        raise UserError(msg)


Task = Callable[[Autoencoder, Tensor, Options], Tensor]
TASKS: Mapping[str, Task] = {  # The comments are the shapes of the results.
    "reconstruct": lambda model, x, _: batched(model.reconstruct, x),  # (B, C, H, W)
    "encode": lambda model, x, _: batched(Codec(model).encode, x),  # (B, d)
    "decode": lambda model, _, options: decode(model, options.codes),  # (B, C, H, W)
    "sample": lambda model, _, options: sample(model, options.count, options.seed),  # (count, C, H, W)
    "interpolate": lambda model, x, options: interpolate(model, x, options.steps),  # (steps, C, H, W)
    "score": lambda model, x, options: score(model, x, options.by),  # (B,)
}
