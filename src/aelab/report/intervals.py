"""Means over a few seeds and many test images: their 95 % intervals, and tests of differences.

    mean of n seeds             x̄ ± t·s/√n,  t: 97.5 % quantile of Student's t, with n − 1 degrees of freedom
    mean of n seeds × m images  ȳ ± t·√v,  v = S²/n + B²/m − R²/(n·m)
    difference of two entries   the same formulas for d = x − y, with the seeds (and images) that both entries have

Here s² is the variance of the n values (Student 1908). S² is the variance of the seeds' means, and B² is the variance
of the images' means. R² is the variance of the residuals y − seed's mean − image's mean + ȳ. Seeds and images are
crossed, since each seed's model sees every image. S²/n and B²/m both contain R²/(n·m), so v subtracts this term once
(Cameron, Gelbach & Miller 2011; Owen 2007). If the formula gives less than S²/n or B²/m, v is the larger of the two.
The degrees of freedom are v² ÷ Σ(term² ÷ d), with d = n − 1, m − 1 and (n − 1)(m − 1) for the three terms
(Satterthwaite 1946).

An interval over seeds estimates the mean of all possible seeds on these images. An interval over seeds and images
estimates the mean of all possible seeds and images. `crossed` returns the wider of the two intervals.

An entry is a model configuration in `params.yaml`. Both entries of a difference have the same images, and equal seeds
draw equal batches, so a difference varies less than the two values. A 95 % interval is meant for a single comparison:
of twenty intervals, one is expected to miss the true value. `holm` widens the intervals of several comparisons. With
95 % confidence, none of the widened intervals mistakes chance for a difference (Holm 1979).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
SEEDS, IMAGES, BOTH = "seeds", "test images", "seeds and test images"  # values of `Interval.over`


@dataclass(frozen=True)
class Interval:
    """Mean with its 95 % interval, from mean − half to mean + half.

    Attributes:
        mean: the mean.
        half: half of the interval's width; NaN without an interval, for example with one seed.
        over: sources of variation that the interval covers: `SEEDS`, `IMAGES` or `BOTH`.
        degrees: degrees of freedom of Student's distribution.
        images: half of the width of an interval over test images alone, with the trained models fixed.
    """

    mean: float
    half: float
    over: str = field(default=SEEDS, compare=False)
    degrees: float = field(default=math.inf, compare=False)
    images: float = field(default=0.0, compare=False)

    @property
    def known(self) -> bool:
        """Whether the mean has an interval."""
        return not math.isnan(self.half)

    def text(self, digits: int) -> str:
        """Return `mean ± half` as text, or the mean alone if half is 0 or NaN."""
        return f"{self.mean:,.{digits}f}" + (f" ± {self.half:,.{digits}f}" if self.known and self.half else "")

    def side(self, threshold: float) -> int:
        """Return 1 if the whole interval is above the threshold, −1 if it is below, else 0."""
        if not self.known:
            return 0
        return int(self.mean - self.half > threshold) - int(self.mean + self.half < threshold)

    def among(self, comparisons: int) -> "Interval":
        """Return the interval for one of m = `comparisons` comparisons, at a confidence of 1 − 0.05/m (Bonferroni)."""
        wider = _quantile(self.degrees, comparisons) / _quantile(self.degrees)
        return replace(self, half=self.half * wider, images=self.images * wider)

    def chance(self, threshold: float = 0.0) -> float:
        """Return the two-sided p-value of the hypothesis that the true mean equals the threshold."""
        apart = abs(self.mean - threshold)
        if not self.half:
            return float(apart == 0)
        return float(2 * stdtr(self.degrees, -apart / self.half * _quantile(self.degrees)))


def _quantile(degrees: float, comparisons: int = 1) -> float:
    return float(stdtrit(degrees, 1 - (1 - CONFIDENCE) / comparisons / 2))


def interval(values: Iterable[float]) -> Interval:
    """Return the mean and interval of independent values. NaN values are left out."""
    sample = np.asarray([value for value in values if not math.isnan(value)], np.float64)
    degrees = len(sample) - 1
    if degrees < 1:  # a single value has no spread
        return Interval(float(sample.mean()) if len(sample) else math.nan, math.nan)
    error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    return Interval(float(sample.mean()), _quantile(degrees) * error, SEEDS, degrees)


def crossed(values: ArrayLike, *, floor: bool = False) -> Interval:
    """Return the mean of values, with an interval over seeds and images.

    Args:
        values: a value for each seed and image, (seeds, images), no NaN.
        floor: whether the values are from a floor: a baseline without training, the same for every seed. A floor with
            one seed gets an interval that covers only images.
    """
    y = np.asarray(values, np.float64)
    (n, m), mean = y.shape, float(y.mean())
    if m < 2 or (n < 2 and not floor):  # noqa: PLR2004 - a single value has no spread
        return replace(interval(y.mean(1)), mean=mean)
    of_seeds, of_images = y.mean(1, keepdims=True), y.mean(0, keepdims=True)
    if n == 1:
        found = interval(of_images[0])
        return replace(found, over=IMAGES, images=found.half)
    rest = np.square(y - of_seeds - of_images + mean).sum() / ((n - 1) * (m - 1))
    terms = np.array([of_seeds.var(ddof=1) / n, of_images.var(ddof=1) / m, -rest / (n * m)])
    variance = max(terms.sum(), terms[0], terms[1])
    if not variance:
        return Interval(mean, 0.0, BOTH)
    degrees = variance**2 / (np.square(terms) / [n - 1, m - 1, (n - 1) * (m - 1)]).sum()
    half = _quantile(degrees) * math.sqrt(variance)
    alone, images = _quantile(n - 1) * math.sqrt(terms[0]), _quantile(m - 1) * math.sqrt(terms[1])
    half, degrees = max((half, float(degrees)), (alone, n - 1))
    return Interval(mean, half, BOTH, degrees, images)


def holm(intervals: Sequence[Interval], thresholds: Sequence[float] | None = None) -> list[Interval]:
    """Widen the intervals of several comparisons: a widened interval excludes its threshold if Holm's test rejects.

    In the order of the p-values, lowest first, the k-th of m intervals has a confidence of 1 − 0.05/(m − k + 1). Once
    an interval includes its threshold, all later intervals keep this interval's confidence, and therefore include
    their thresholds.

    Args:
        intervals: the means with their intervals. A mean without an interval stays unchanged and is not counted in m.
        thresholds: a threshold for each interval; 0 if None.
    """
    limits = thresholds or [0.0] * len(intervals)
    chances = {i: each.chance(limits[i]) for i, each in enumerate(intervals) if each.known}
    found, left = list(intervals), len(chances)
    for i in sorted(chances, key=chances.__getitem__):
        found[i] = intervals[i].among(left)
        left -= found[i].side(limits[i]) != 0
    return found
