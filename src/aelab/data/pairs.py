"""Pairs of what a model sees and what it gives back, in memory or on disk."""

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
    """What is seen and what is to be given back, in memory or on disk: images as uint8, codes as integers."""

    inputs: arrays.Array
    targets: arrays.Array

    @classmethod
    def of(cls, images: "Pairs | arrays.Array") -> "Pairs":
        """Pairs as they are; images as pairs with themselves."""
        return images if isinstance(images, Pairs) else cls(images, images)

    def check(self, image: Sequence[int], what: str, *, versions: bool = False) -> None:
        """See that these are images (C, H, W), an input for each target, or several `versions`; looks at no value.

        Raises:
            UserError: they are not; calls them `what`.
        """
        check_stored(self.targets, image, what)
        if self.inputs is not self.targets:
            check_stored(self.inputs, image, f"inputs of {what}")
            count, wanted = len(self.inputs), len(self.targets)
            if count != wanted and not (versions and count % wanted == 0):
                msg = f"{what} have {count} inputs for {wanted} targets; there has to be one for each"
                raise UserError(msg)

    @property
    def nbytes(self) -> int:
        """Bytes of both, counted once where they are one."""
        return self.targets.nbytes + (0 if self.inputs is self.targets else self.inputs.nbytes)

    def thinned(self, count: int) -> "Pairs":
        """`count` of the pairs at most, evenly spread over all."""
        if count >= len(self.targets):
            return self
        chosen = evenly(len(self.targets), count)
        targets = arrays.selected(self.targets, chosen)
        return Pairs(targets if self.inputs is self.targets else arrays.selected(self.inputs, chosen), targets)

    def split(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All of it in batches of `size`, on the CPU."""
        for start in counted(range(0, len(self.targets), size)):
            x, y = (torch.from_numpy(arrays.writable(each[start : start + size])) for each in self)
            for each in self:
                arrays.release(each)
            yield x, y


def batches(images: arrays.Array, size: int, device: torch.device) -> Iterator[Tensor]:
    """Stored images as batches of floats (B, C, H, W) on `device`."""
    for start in counted(range(0, len(images), size)):
        yield as_float(torch.from_numpy(arrays.writable(np.asarray(images[start : start + size]))).to(device))
        arrays.release(images)
