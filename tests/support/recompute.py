"""Independent computation of intervals and verdicts from `images.parquet`, with NumPy, pandas and SciPy alone.

    python tests/support/recompute.py evaluation mse ae          # mean and half-width of the 95 % interval
    python tests/support/recompute.py evaluation mse ae vae      # of ae − vae

This module shares no code with the report, and uses other formulas. Variances come from a table's sums of squares,
while the report uses variances of means. P-values are compared with Holm's thresholds, while the report widens
intervals.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats


def values(evaluation: Path, entry: str, metric: str) -> pd.DataFrame:
    """Table of a metric, with a row for each seed and a column for each test image."""
    table = pd.read_parquet(evaluation / entry / "images.parquet")
    return table.pivot_table(index="seed", columns="image", values=metric).dropna(axis="columns")


def estimate(table: pd.DataFrame) -> tuple[float, float, float]:
    """Mean of a table, its standard error, and the degrees of freedom of the error.

    The standard error covers seeds and images, or seeds alone if this makes the interval wider.
    """
    y = table.to_numpy(float)
    n, m = y.shape
    total = n * m * y.mean() ** 2
    sum_of_seeds = m * np.square(y.mean(axis=1)).sum() - total
    sum_of_images = n * np.square(y.mean(axis=0)).sum() - total
    sum_of_rest = np.square(y).sum() - total - sum_of_seeds - sum_of_images
    parts = [
        (sum_of_seeds / (n - 1) / (n * m), n - 1),
        (sum_of_images / (m - 1) / (n * m), m - 1),
        (-sum_of_rest / ((n - 1) * (m - 1)) / (n * m), (n - 1) * (m - 1)),
    ]
    variance = max(sum(part for part, _ in parts), parts[0][0], parts[1][0])
    degrees = variance**2 / sum(part**2 / freedom for part, freedom in parts)
    choices = [(variance**0.5, degrees), (parts[0][0] ** 0.5, n - 1)]
    return y.mean(), *max(choices, key=lambda each: each[0] * stats.t.ppf(0.975, each[1]))


def interval(table: pd.DataFrame) -> tuple[float, float]:
    """Mean of a table, and half the width of its 95 % interval."""
    mean, error, degrees = estimate(table)
    return mean, error * stats.t.ppf(0.975, degrees)


def verdict(gains: Sequence[pd.DataFrame]) -> str:
    """Verdict of a duel from the gains of one side over the other. A positive gain means that the side is better."""
    chances = []
    for gain in gains:
        mean, error, degrees = estimate(gain)
        chances.append((2 * stats.t.sf(abs(mean) / error, degrees), np.sign(mean)))
    found: list[int] = []
    for rank, (chance, sign) in enumerate(sorted(chances)):
        found.append(sign if chance <= 0.05 / (len(chances) - rank) and 0 not in found else 0)
    if {1, -1} <= set(found):
        return "mixed"
    if -1 in found:
        return "contradicted"
    if 1 in found:
        return "supported in part" if 0 in found else "supported"
    return "undecided"


if __name__ == "__main__":
    folder, of, *entries = sys.argv[1:]
    tables = [values(Path(folder), entry, of) for entry in entries]
    print("{} ± {}".format(*interval(tables[0] if len(tables) == 1 else tables[0] - tables[1])))
