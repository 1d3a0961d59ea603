"""The metrics of each test image, in a Parquet file for each entry: what intervals over images are made of.

Columns: `seed`, `image` (its place in the test split), and by its name every metric that is a mean over the images, in
float32; null where it was not measured. −log p(x) is of evenly spread images, so is `nll_gap`, −ELBO minus that bound:

    nll of the entry = mean of neg_elbo over all images − mean of nll_gap over those that have one

The scores by which anomalies are told from the test images lie in a file of their own: those of the test images, then
those of the anomalies.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from aelab.data.datasets import evenly

if TYPE_CHECKING:
    import pandas as pd

FILE, SCORES = "images.parquet", "scores.parquet"
VALIDATION = "scores.json"  # of each seed, beside its figures: how the scores of the validation images are spread


def write(path: Path, seeds: Mapping[int, Mapping[str, NDArray[np.float32]]], count: int) -> None:
    """Write what was measured of `count` images: by seed and metric (N,) values, of evenly spread ones where N < count.

    A value that is not finite is null. The same values give the same bytes.
    """
    names = dict.fromkeys(name for each in seeds.values() for name in each)
    columns = {
        "seed": np.repeat(np.array(list(seeds), np.int64), count),
        "image": np.tile(np.arange(count, dtype=np.int32), len(seeds)),
    }
    table = {name: pa.array(values) for name, values in columns.items()}
    for name in names:
        column = np.full((len(seeds), count), np.nan, np.float32)
        for row, each in zip(column, seeds.values(), strict=True):
            if name in each:
                row[evenly(count, len(each[name]))] = each[name]
        table[name] = pa.array(column.ravel(), mask=~np.isfinite(column.ravel()))
    parquet.write_table(pa.table(table), path, compression="zstd")


def read(path: Path) -> "dict[str, pd.DataFrame]":
    """By metric a row for each seed and a column for each image, NaN where it was not measured."""
    import pandas as pd  # noqa: PLC0415 - slow to import, and an evaluation only writes

    table = parquet.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    seeds = pd.Index(dict.fromkeys(columns.pop("seed").tolist()), name="seed")
    images = pd.RangeIndex(len(columns.pop("image")) // max(1, len(seeds)), name="image")
    shape = (len(seeds), len(images))
    return {name: pd.DataFrame(each.reshape(shape), seeds, images) for name, each in columns.items()}
