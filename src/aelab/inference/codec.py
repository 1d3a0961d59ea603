"""The code of an image as a row of numbers, whatever a model's code is made of: what files and servers can hold.

A vector is the row itself. Several stochastic layers stand one behind the other, grids in raster order, channel by
channel. A code that is made of entries of a codebook is the row of their indices: whole numbers, of which nothing is
lost.

Dimensions: B batch, d numbers of a row.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from aelab.core.errors import UserError
from aelab.core.tensors import device_of
from aelab.models.base import Autoencoder, Latent
from aelab.models.discrete import DiscreteAutoencoder
from aelab.models.latent import flatten, unflatten


class Codec:
    """Rows of a model's codes, and the images that they stand for.

    Attributes:
        integers: whether the rows hold indices.
        width: d.
    """

    def __init__(self, model: Autoencoder) -> None:
        self.model, self.integers = model, isinstance(model, DiscreteAutoencoder)
        with torch.no_grad():
            self._example = self._codes(torch.zeros(1, *model.image, device=device_of(model)))
        self.width = flatten(self._example).shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """The rows of images: (B, C, H, W) → (B, d), float32 or int64. The means, where the code is a distribution."""
        return flatten(self._codes(x))

    def decode(self, rows: Tensor) -> Tensor:
        """The images of rows, values in [0, 1]: (B, d) → (B, C, H, W)."""
        codes = unflatten(rows, self._example)
        if isinstance(self.model, DiscreteAutoencoder) and isinstance(codes, Tensor):
            return self.model.decode_indices(codes)
        return self.model.decode(codes)

    def checked(self, rows: Tensor) -> Tensor:
        """`rows` of any type as `decode` takes them.

        Raises:
            UserError: they are no rows of this model's codes.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:  # noqa: PLR2004 - a matrix
            msg = f"codes of this model are rows of {self.width} numbers, these have the shape {tuple(rows.shape)}"
            raise UserError(msg)
        if not isinstance(self.model, DiscreteAutoencoder):
            if not rows.isfinite().all():
                msg = "some of the codes are infinite or no numbers"
                raise UserError(msg)
            return rows.float()
        codes = self.model.quantizer.codes
        if not ((rows >= 0) & (rows < codes) & (rows == rows.floor() if rows.is_floating_point() else True)).all():
            msg = f"codes of this model are whole numbers from 0 to {codes - 1}; some of these are not"
            raise UserError(msg)
        return rows.long()

    def _codes(self, x: Tensor) -> Latent:
        return self.model.indices(x) if isinstance(self.model, DiscreteAutoencoder) else self.model.encode(x)


def table(names: Sequence[str], rows: Tensor, *, integers: bool) -> pd.DataFrame:
    """A row for each image: its name, and its code (B, d) as the columns z0, z1, …, or k0, k1, … of indices."""
    letter = "k" if integers else "z"
    columns = pd.DataFrame(rows.numpy(), columns=[f"{letter}{i}" for i in range(rows.shape[1])])
    return pd.concat([pd.Series(names, name="image", dtype="str"), columns], axis=1)


def as_bytes(codes: pd.DataFrame, suffix: str) -> bytes:
    """A table as a Parquet file or, for any suffix but ".parquet", as CSV, with as many digits as no number loses."""
    if suffix.lower() == ".parquet":
        return codes.to_parquet(index=False)
    return codes.to_csv(index=False, lineterminator="\n").encode()
