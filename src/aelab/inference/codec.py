"""Codes as rows of numbers. Tables of codes and MLflow's server use these rows for every model.

A code that is a vector is a row already. A grid becomes a row channel by channel, and each channel line by line. The
codes of several stochastic layers are joined into one row. A code from a codebook becomes a row of indices, from which
the code can be restored exactly.

Dimensions: B batch, d numbers in a row.
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
    """Converter between images and rows of codes.

    Attributes:
        integers: whether a row has indices of a codebook.
        width: d, the length of a row.
    """

    def __init__(self, model: Autoencoder) -> None:
        self.model, self.integers = model, isinstance(model, DiscreteAutoencoder)
        with torch.no_grad():
            self._example = self._codes(torch.zeros(1, *model.image, device=device_of(model)))
        self.width = flatten(self._example).shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """Encode images as rows: (B, C, H, W) → (B, d).

        Indices have the type int64, and all other codes float32. If a code is a distribution, the row is its mean.
        """
        return flatten(self._codes(x))

    def decode(self, rows: Tensor) -> Tensor:
        """Decode rows to images with values in [0, 1]: (B, d) → (B, C, H, W)."""
        codes = unflatten(rows, self._example)
        if isinstance(self.model, DiscreteAutoencoder) and isinstance(codes, Tensor):
            return self.model.decode_indices(codes)
        return self.model.decode(codes)

    def checked(self, rows: Tensor) -> Tensor:
        """Check rows, and convert their numbers to the type that `decode` needs.

        Args:
            rows: (B, d), of any type.

        Returns:
            The rows as int64 if the model has a codebook, else as float32.

        Raises:
            UserError: a row is too long or too short, a number is not finite, or an index is not in the codebook.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:  # noqa: PLR2004 - a matrix
            msg = f"codes of this model are rows of {self.width} numbers; got the shape {tuple(rows.shape)}"
            raise UserError(msg)
        if not isinstance(self.model, DiscreteAutoencoder):
            if not rows.isfinite().all():
                msg = "codes must be finite; some are infinite or NaN"
                raise UserError(msg)
            return rows.float()
        codes = self.model.quantizer.codes
        if not ((rows >= 0) & (rows < codes) & (rows == rows.floor() if rows.is_floating_point() else True)).all():
            msg = f"codes of this model are whole numbers from 0 to {codes - 1}; got other numbers"
            raise UserError(msg)
        return rows.long()

    def _codes(self, x: Tensor) -> Latent:
        return self.model.indices(x) if isinstance(self.model, DiscreteAutoencoder) else self.model.encode(x)


def table(names: Sequence[str], rows: Tensor, *, integers: bool) -> pd.DataFrame:
    """Table of codes. Each row has the name of an image and the code of the image.

    Args:
        names: names of the B images, for the column `image`.
        rows: codes (B, d), on the CPU.
        integers: whether the codes are indices. Columns of indices are k0, k1, …; columns of other codes are z0, z1, …
    """
    letter = "k" if integers else "z"
    columns = pd.DataFrame(rows.numpy(), columns=[f"{letter}{i}" for i in range(rows.shape[1])])
    return pd.concat([pd.Series(names, name="image", dtype="str"), columns], axis=1)


def as_bytes(codes: pd.DataFrame, suffix: str) -> bytes:
    """Content of a table's file: Parquet if `suffix` is ".parquet", else CSV with enough digits for exact numbers."""
    if suffix.lower() == ".parquet":
        return codes.to_parquet(index=False)
    return codes.to_csv(index=False, lineterminator="\n").encode()
