"""Pairs of an input that a model sees, and a target that the model learns to reconstruct."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aelab.core import arrays
from aelab.core.errors import UserError
from aelab.core.progress import counted
from aelab.core.tensors import as_float
from aelab.data.checks import check_stored
from aelab.data.datasets import evenly


class Pairs(NamedTuple):
    """Inputs and targets of a model, in memory or on disk.

    For example, `Pairs(noisy, clean)` can train a denoising autoencoder on any kind of noise.

    Attributes:
        inputs: Images as uint8 (N, C, H, W), or codes as integers. For training, each target may have R inputs, such as
            R noisy copies of an image. The shape is then (R·N, …): the first input of all targets, then the second
            input of all targets, and so on.
        targets: Images or codes, (N, …). Target i belongs to the inputs i, N + i, 2N + i, and so on.
    """

    inputs: arrays.Array
    targets: arrays.Array

    @classmethod
    def of(cls, images: "Pairs | arrays.Array") -> "Pairs":
        """Return `images` unchanged if they are pairs; otherwise pair each image with itself.

        Args:
            images: Pairs, or images that are both the inputs and the targets.

        Returns:
            The pairs.
        """
        return images if isinstance(images, Pairs) else cls(images, images)

    def check(self, image: Sequence[int], what: str, *, versions: bool = False) -> None:
        """Check that inputs and targets are images, with one input for each target. The check reads no pixels.

        Args:
            image: Expected shape (C, H, W) of an image.
            what: Name of the pairs in the error message.
            versions: Whether a target may have several inputs. The number of inputs must be equal for all targets.

        Raises:
            UserError: An array does not have the expected type or shape, or targets have different numbers of inputs.
        """
        check_stored(self.targets, image, what)
        if self.inputs is not self.targets:
            check_stored(self.inputs, image, f"inputs of {what}")
            count, wanted = len(self.inputs), len(self.targets)
            if count != wanted and not (versions and count % wanted == 0):
                msg = (
                    f"{what} have {count} inputs for {wanted} targets; every target must have the same number of inputs"
                )
                raise UserError(msg)

    @property
    def nbytes(self) -> int:
        """Bytes of inputs and targets. If both are one array, its bytes count once."""
        return self.targets.nbytes + (0 if self.inputs is self.targets else self.inputs.nbytes)

    def thinned(self, count: int) -> "Pairs":
        """Return at most `count` pairs, evenly spread over all pairs.

        Args:
            count: Number of pairs to keep, at least 1. If there are fewer pairs, all of them are kept.

        Returns:
            The pairs, in the same order.
        """
        if count >= len(self.targets):
            return self
        chosen = evenly(len(self.targets), count)
        targets = arrays.selected(self.targets, chosen)
        return Pairs(targets if self.inputs is self.targets else arrays.selected(self.inputs, chosen), targets)

    def split(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all pairs in batches, on the CPU.

        Args:
            size: Pairs per batch. The last batch may be smaller.

        Yields:
            Inputs and targets of a batch, unconverted: images as uint8, codes as integers.
        """
        for start in counted(range(0, len(self.targets), size)):
            x, y = (torch.from_numpy(arrays.writable(each[start : start + size])) for each in self)
            for each in self:
                arrays.release(each)
            yield x, y


def batches(images: arrays.Array, size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield stored images in batches of at most `size`, as floats (B, C, H, W) in [0, 1] on `device`."""
    for start in counted(range(0, len(images), size)):
        yield as_float(torch.from_numpy(arrays.writable(np.asarray(images[start : start + size]))).to(device))
        arrays.release(images)
