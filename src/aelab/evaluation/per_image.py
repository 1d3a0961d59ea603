"""Metrics of each test image, from which the report computes confidence intervals over images.

An entry is a model's configuration in params.yaml. Each entry has a Parquet file, `FILE`, with a row for each seed and
image. The columns are `seed`, `image` (the index in the test split), and each metric that is a mean over images, in
float32. A value that was not measured is null.

The importance-weighted bound `nll` is slow to compute. Only some evenly spread images have a value of `nll` and of
`nll_gap` = neg_elbo − nll. The report estimates the mean of `nll` over all images:

    mean of nll = mean of neg_elbo over all images − mean of nll_gap over the images that have a value

A second file, `SCORES`, has the anomaly scores: first the scores of the test images, then the scores of the anomalies.
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
VALIDATION = "scores.json"  # name of a file for each seed, with the anomaly scores of validation images


def write(path: Path, seeds: Mapping[int, Mapping[str, NDArray[np.float32]]], count: int) -> None:
    """Write the metrics of each image as a Parquet file. Equal values give equal bytes.

    Args:
        path: the file to write.
        seeds: for each seed, the values of each metric, (N,). If N < `count`, the values belong to N evenly spread
            images. A value that is not finite becomes null.
        count: number of all images, with and without values.
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
    """Read the values of each metric as a table. Rows are seeds, columns are images, and NaN means not measured."""
    import pandas as pd  # noqa: PLC0415 - slow to import, and the stage evaluate only writes

    table = parquet.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    seeds = pd.Index(dict.fromkeys(columns.pop("seed").tolist()), name="seed")
    images = pd.RangeIndex(len(columns.pop("image")) // max(1, len(seeds)), name="image")
    shape = (len(seeds), len(images))
    return {name: pd.DataFrame(each.reshape(shape), seeds, images) for name, each in columns.items()}
