"""The code of an image as a row of numbers, whatever a model's code is made of: what files and servers can hold.

A vector is the row itself. Several stochastic layers stand one behind the other, grids in raster order, channel by
channel. A code that is made of entries of a codebook is the row of their indices: whole numbers, of which nothing is
lost.

Dimensions: B batch, d numbers of a row.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import pandas as pd
import torch
from torch import Tensor

from autoencoders.base import Autoencoder
from autoencoders.disk import write_atomically
from autoencoders.errors import UserError
from autoencoders.evaluation import parts
from autoencoders.quantizer import Quantizer
from autoencoders.tensors import device_of


@runtime_checkable
class Discrete(Protocol):
    """A model whose code is a grid of indices into a codebook."""

    quantizer: Quantizer

    def indices(self, x: Tensor) -> Tensor:
        """The indices of images: (B, C, H, W) → (B, h, w) int64."""

    def decode_indices(self, indices: Tensor) -> Tensor:
        """The images of indices: (B, h, w) → (B, C, H, W)."""


class Codec:
    """Rows of a model's codes, and the images that they stand for.

    Attributes:
        integers: whether the rows hold indices.
        width: d.
    """

    def __init__(self, model: Autoencoder) -> None:
        self.model, self.integers = model, isinstance(model, Discrete)
        with torch.no_grad():
            example = self._codes(torch.zeros(1, *model.image, device=device_of(model)))
        self.one = isinstance(example, Tensor)
        self.shapes = [part.shape[1:] for part in parts(example)]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.width = sum(self.sizes)

    def encode(self, x: Tensor) -> Tensor:
        """The rows of images: (B, C, H, W) → (B, d), float32 or int64. The means, where the code is a distribution."""
        return torch.cat([part.flatten(1) for part in parts(self._codes(x))], 1)

    def decode(self, rows: Tensor) -> Tensor:
        """The images of rows, values in [0, 1]: (B, d) → (B, C, H, W)."""
        split = rows.split(self.sizes, 1)
        each = tuple(part.unflatten(1, shape) for part, shape in zip(split, self.shapes, strict=True))
        if self.integers:
            return cast("Discrete", self.model).decode_indices(each[0])
        return self.model.decode(each[0] if self.one else each)

    def checked(self, rows: Tensor) -> Tensor:
        """`rows` of any type as `decode` takes them.

        Raises:
            UserError: they are no rows of this model's codes.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:  # noqa: PLR2004 - a matrix
            msg = f"codes of this model are rows of {self.width} numbers, these have the shape {tuple(rows.shape)}"
            raise UserError(msg)
        if not self.integers:
            if not rows.isfinite().all():
                msg = "some of the codes are infinite or no numbers"
                raise UserError(msg)
            return rows.float()
        codes = cast("Discrete", self.model).quantizer.codes
        if not ((rows >= 0) & (rows < codes) & (rows == rows.floor() if rows.is_floating_point() else True)).all():
            msg = f"codes of this model are whole numbers from 0 to {codes - 1}; some of these are not"
            raise UserError(msg)
        return rows.long()

    def _codes(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.model.indices(x) if isinstance(self.model, Discrete) else self.model.encode(x)


def table(names: Sequence[str], rows: Tensor, *, integers: bool) -> pd.DataFrame:
    """A row for each image: its name, and its code (B, d) as the columns z0, z1, …, or k0, k1, … of indices."""
    letter = "k" if integers else "z"
    columns = pd.DataFrame(rows.numpy(), columns=[f"{letter}{i}" for i in range(rows.shape[1])])
    return pd.concat([pd.Series(names, name="image", dtype="str"), columns], axis=1)


def as_csv(codes: pd.DataFrame) -> bytes:
    """A table as CSV; its numbers are as long as it takes for none to be changed."""
    return codes.to_csv(index=False, lineterminator="\n").encode()


def write(codes: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet or, to a path that ends in .csv, as CSV; all of it or nothing."""
    file = io.BytesIO()
    if path.suffix.lower() == ".csv":
        file.write(as_csv(codes))
    else:
        codes.to_parquet(file, index=False)
    write_atomically(path, file.getvalue())
