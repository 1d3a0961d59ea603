"""What a few seeds tell: means with their 95 % intervals, and which entries they tell apart.

    mean of n seeds            x̄ ± t · s/√n,  t the 97.5 % quantile of Student's distribution with n − 1 degrees
    difference of two entries  d̄ ± t · s_d/√n,  d_i = x_i − y_i over the seeds i that both have

Student 1908. The same seed draws the same batches for both, so that the differences vary less than the values do. An
interval is meant by itself: of twenty of them one is expected to miss. Where the most telling of several comparisons is
picked, each of them is made at the confidence 1 − 0.05/m, m being how many they are (Bonferroni).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

if TYPE_CHECKING:  # `make repro` shows intervals, too, and begins sooner without pandas
    import pandas as pd

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """From mean − half to mean + half; half is NaN where there are fewer than two values, and there is no interval."""

    mean: float
    half: float

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.half)

    def text(self, digits: int) -> str:
        """`mean ± half`; the mean alone where the seeds agree or there is only one."""
        return f"{self.mean:,.{digits}f}" + (f" ± {self.half:,.{digits}f}" if self.known and self.half else "")

    def side(self, threshold: float) -> int:
        """1 if all of it lies above the threshold, −1 if all lies below, 0 if neither can be told."""
        if not self.known:
            return 0
        return int(self.mean - self.half > threshold) - int(self.mean + self.half < threshold)


def interval(values: Iterable[float], comparisons: int = 1) -> Interval:
    """Mean and interval of values that are drawn independently, one of so many `comparisons`; NaN ones are left out."""
    sample = np.asarray([value for value in values if not math.isnan(value)], np.float64)
    if len(sample) < 2:  # noqa: PLR2004 - of a single value nobody knows the spread
        return Interval(float(sample.mean()) if len(sample) else math.nan, math.nan)
    quantile = stdtrit(len(sample) - 1, 1 - (1 - CONFIDENCE) / comparisons / 2)
    return Interval(float(sample.mean()), float(quantile * sample.std(ddof=1) / math.sqrt(len(sample))))


def difference(ours: "pd.Series", theirs: "pd.Series", comparisons: int = 1) -> Interval:
    """Of ours − theirs, over the seeds (their index) that both have; one of so many `comparisons`."""
    return interval(ours - theirs, comparisons)


def by_seed(results: "pd.DataFrame", name: str) -> "pd.DataFrame":
    """A metric with a row for each seed and a column for each entry, in their order."""
    entries = list(dict.fromkeys(results["entry"]))
    return results.set_index(["seed", "entry"])[name].unstack()[entries]  # noqa: PD010 - there is nothing to aggregate


def leaders(values: "pd.DataFrame", better: str | None) -> set[str]:
    """The entry with the best mean, and those whose difference to it may as well be 0.

    Entries with fewer than two seeds are not ranked, and there is no best one where there is nothing to compare it
    with: the set is empty.

    Args:
        values: a row for each seed and a column for each entry; NaN where there is none.
        better: "lower" or "higher"; None ranks nothing.
    """
    ranked = [str(entry) for entry in values if values[entry].count() > 1]
    if better is None or not ranked:
        return set()
    means = values[ranked].mean()
    best = str(means.idxmin() if better == "lower" else means.idxmax())
    gaps = {entry: difference(values[entry], values[best]) for entry in ranked if entry != best}
    compared = {entry: gap for entry, gap in gaps.items() if gap.known}
    worse = 1 if better == "lower" else -1
    return {best} | {entry for entry, gap in compared.items() if gap.side(0) != worse} if compared else set()
