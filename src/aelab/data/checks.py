"""What images have to be at every door of the library, and one sentence where something else came.

Stored images are arrays of uint8, (N, C, H, W); what a model sees are tensors of floats in [0, 1], (B, C, H, W).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aelab.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

DIMENSIONS = 4
CHANNELS = {1, 3, 4}  # of images whose channels may have come last


def check_stored(images: object, image: Sequence[int] | None = None, what: str = "images") -> None:
    """See that images can be learned from: an array of uint8, (N, C, H, W), one at least. No value is looked at.

    Args:
        images: what came.
        image: (C, H, W) of what a model takes; None: any.
        what: the images' name in the sentence.

    Raises:
        UserError: they are something else; says what was wanted and what came.
    """
    array = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == DIMENSIONS
    fits = array and images.shape[1:] == tuple(image or images.shape[1:]) and images.size  # type: ignore[attr-defined]
    if not fits or (image is None and channels_last(images.shape)):  # type: ignore[attr-defined]
        wanted = ", ".join(map(str, image or ("C", "H", "W")))
        msg = f"{what} have to be an array of uint8 (N, {wanted}); what came is {'; '.join(described(images))}"
        raise UserError(msg)


def seen(x: object, image: Sequence[int]) -> "Tensor":
    """Images as a model sees them, float32 (B, C, H, W); B may be 0.

    Raises:
        UserError: they are no tensor of floats of that size, or have values outside of [0, 1].
    """
    from torch import Tensor  # noqa: PLC0415 - stages that need no model check the parameters without torch

    if not isinstance(x, Tensor) or not x.is_floating_point() or x.shape[1:] != tuple(image) or x.ndim != DIMENSIONS:
        came = next(described(x))
        msg = (
            f"a model sees images as a tensor of floats (B, {', '.join(map(str, image))}) from 0 to 1, as "
            f"aelab.as_float makes it of uint8 (N, C, H, W); what came is {came}"
        )
        raise UserError(msg)
    if not ((x >= 0) & (x <= 1)).all():  # no number is neither
        values = f"go from {x.min():.3g} to {x.max():.3g}" if x.isfinite().all() else "are infinite or no numbers"
        msg = f"images have values from 0 to 1; some of these {values}"
        raise UserError(msg)
    return x.float()


def channels_last(shape: Sequence[int]) -> bool:
    """Whether images of a shape are (N, H, W, C), as far as the numbers tell."""
    return len(shape) == DIMENSIONS and shape[3] in CHANNELS and shape[1] not in CHANNELS


def described(came: Any) -> Iterator[str]:
    """What came, and then how it becomes what is wanted."""
    kind = type(came).__name__.removeprefix("nd")
    shape, dtype = getattr(came, "shape", None), str(getattr(came, "dtype", "")).removeprefix("torch.")
    article = "an" if kind[0].lower() in "aeiou" else "a"
    yield f"{article} {kind}" + (f" of {dtype} {tuple(shape)}" if shape is not None and dtype else "")
    if hasattr(came, "detach"):
        yield ".numpy() makes an array of it"
    elif not isinstance(came, np.ndarray):
        yield "np.array(…) makes an array of images"
    if dtype.startswith(("float", "bfloat")):
        yield "(255 * images).round().astype(np.uint8) takes floats from 0 to 1"
    elif dtype and dtype != "uint8":
        yield ".astype(np.uint8) takes whole numbers from 0 to 255"
    if shape is not None and len(shape) == DIMENSIONS - 1:
        yield "images[:, None] adds the channel"
    elif shape is not None and channels_last(shape):
        yield "images.transpose(0, 3, 1, 2) puts the channels first"
    if shape is not None and 0 in shape:
        yield "there is no image in it"
