"""Checks of the images that users pass to the library. A failed check raises a `UserError` with one sentence.

Stored images are uint8 arrays (N, C, H, W). A model takes float tensors (B, C, H, W) with values in [0, 1].
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aelab.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

DIMENSIONS = 4
CHANNELS = {1, 3, 4}  # a last dimension of one of these sizes is probably the channels


def check_stored(images: object, image: Sequence[int] | None = None, what: str = "images") -> None:
    """Check that `images` are a uint8 array (N, C, H, W) with at least one image. The check reads no pixels.

    Args:
        images: Object to check.
        image: Expected shape (C, H, W) of an image; None allows any shape.
        what: Name of the images in the error message.

    Raises:
        UserError: `images` are something else. The message describes the object, and how to convert it.
    """
    array = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == DIMENSIONS
    fits = array and images.shape[1:] == tuple(image or images.shape[1:]) and images.size  # type: ignore[attr-defined]
    if not fits or (image is None and channels_last(images.shape)):  # type: ignore[attr-defined]
        wanted = ", ".join(map(str, image or ("C", "H", "W")))
        msg = f"{what} must be an array of uint8 (N, {wanted}); got {'; '.join(described(images))}"
        raise UserError(msg)


def seen(x: object, image: Sequence[int]) -> "Tensor":
    """Check images before a model computes with them, and return them as float32 (B, C, H, W).

    Args:
        x: Object to check; B may be 0.
        image: Shape (C, H, W) of the model's images.

    Raises:
        UserError: `x` is not a float tensor (B, C, H, W), or has values outside of [0, 1].
    """
    from torch import Tensor  # noqa: PLC0415 - this module is also imported where torch is not needed

    if not isinstance(x, Tensor) or not x.is_floating_point() or x.shape[1:] != tuple(image) or x.ndim != DIMENSIONS:
        came = next(described(x))
        msg = (
            f"a model takes images as a tensor of floats (B, {', '.join(map(str, image))}) from 0 to 1, which "
            f"aelab.as_float makes from uint8 (N, C, H, W); got {came}"
        )
        raise UserError(msg)
    if not ((x >= 0) & (x <= 1)).all():  # NaN fails both comparisons
        values = f"these go from {x.min():.3g} to {x.max():.3g}" if x.isfinite().all() else "some are infinite or NaN"
        msg = f"images must have values from 0 to 1; {values}"
        raise UserError(msg)
    return x.float()


def channels_last(shape: Sequence[int]) -> bool:
    """Whether a shape is probably (N, H, W, C)."""
    return len(shape) == DIMENSIONS and shape[3] in CHANNELS and shape[1] not in CHANNELS


def described(came: Any) -> Iterator[str]:
    """Yield a description of an object, then each conversion on the way to a uint8 array (N, C, H, W)."""
    kind = type(came).__name__.removeprefix("nd")
    shape, dtype = getattr(came, "shape", None), str(getattr(came, "dtype", "")).removeprefix("torch.")
    article = "an" if kind[0].lower() in "aeiou" else "a"
    yield f"{article} {kind}" + (f" of {dtype} {tuple(shape)}" if shape is not None and dtype else "")
    if hasattr(came, "detach"):
        yield ".numpy() converts it to an array"
    elif not isinstance(came, np.ndarray):
        yield "np.array(…) converts images to one array"
    if dtype.startswith(("float", "bfloat")):
        yield "(255 * images).round().astype(np.uint8) converts floats from 0 to 1"
    elif dtype and dtype != "uint8":
        yield ".astype(np.uint8) converts whole numbers from 0 to 255"
    if shape is not None and len(shape) == DIMENSIONS - 1:
        yield "images[:, None] adds the channel"
    elif shape is not None and channels_last(shape):
        yield "images.transpose(0, 3, 1, 2) puts the channels first"
    if shape is not None and 0 in shape:
        yield "it has no image"
