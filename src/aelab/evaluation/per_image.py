"""Metrics of each test image, in one Parquet file per entry. The report uses the values for intervals over images.

The columns are `seed`, `image` (the index in the test split), and each metric that is a mean over images, in float32. A
value that was not measured is null. The importance-weighted bound `nll` is slow to compute, so only some images, evenly
spread, have `nll` and `nll_gap` = neg_elbo − nll. From these images, the mean of `nll` over all images is estimated:

    nll of the entry = mean of neg_elbo over all images − mean of nll_gap over the images that have a value

A second file has the anomaly scores: first the scores of the test images, then the scores of the anomalies.
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
VALIDATION = "scores.json"  # file in the folder of each seed's figures: quantiles of the scores of validation images


def write(path: Path, seeds: Mapping[int, Mapping[str, NDArray[np.float32]]], count: int) -> None:
    """Write the metrics of each image as a Parquet file. Equal values give equal bytes.

    Args:
        path: the file to write.
        seeds: values (N,) by seed and metric. If N < `count`, the values belong to N evenly spread images. A value
            that is not finite becomes null.
        count: number of images.
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
    """Read a table for each metric, with a row for each seed and a column for each image; NaN means not measured."""
    import pandas as pd  # noqa: PLC0415 - slow to import, and an evaluation only writes

    table = parquet.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    seeds = pd.Index(dict.fromkeys(columns.pop("seed").tolist()), name="seed")
    images = pd.RangeIndex(len(columns.pop("image")) // max(1, len(seeds)), name="image")
    shape = (len(seeds), len(images))
    return {name: pd.DataFrame(each.reshape(shape), seeds, images) for name, each in columns.items()}
