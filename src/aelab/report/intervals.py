"""What a few seeds and many test images tell: means with their 95 % intervals, and which differences are real.

    mean of n seeds             x̄ ± t·s/√n,  t the 97.5 % quantile of Student's distribution with n − 1 degrees
    mean of n seeds × m images  ȳ ± t·√v,  v = S²/n + B²/m − R²/(n·m)
    difference of two entries   the same of d = x − y, over the seeds, or seeds and images, that both have

Student 1908. S² is the variance of the seeds' means, B² that of the images' means, R² that of what is left once both
are taken away. Seeds and images are crossed, since each seed's model sees every image: S²/n and B²/m both hold
R²/(n·m), so it is taken off once (Cameron, Gelbach & Miller 2011; Owen 2007); v is at least the larger of the two. The
degrees are v² ÷ Σ term²/degrees, with n − 1, m − 1 and (n − 1)(m − 1) of the terms (Satterthwaite 1946). An interval
over both is never narrower than that over seeds alone. The latter says what other seeds would give on the same images,
the former what they would give on other images, too.

The same seed draws the same batches for both entries, and the images are the same, so that differences vary less than
values do. An interval is meant by itself: of twenty of them one is expected to miss. `holm` widens those of one
question so that in 95 % of all cases no difference is taken for real that is not (Holm 1979).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
SEEDS, IMAGES, BOTH = "seeds", "test images", "seeds and test images"  # what an interval covers


@dataclass(frozen=True)
class Interval:
    """From mean − half to mean + half; half is NaN where there are fewer than two values, and there is no interval."""

    mean: float
    half: float
    over: str = field(default=SEEDS, compare=False)  # what it covers, and nothing else: other draws of this
    degrees: float = field(default=math.inf, compare=False)  # of freedom, of the distribution that `half` comes from
    images: float = field(default=0.0, compare=False)  # `half` if these weights were all there are: images alone

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.half)

    def text(self, digits: int) -> str:
        """`mean ± half`; the mean alone where the values agree or there is only one."""
        return f"{self.mean:,.{digits}f}" + (f" ± {self.half:,.{digits}f}" if self.known and self.half else "")

    def side(self, threshold: float) -> int:
        """1 if all of it lies above the threshold, −1 if all lies below, 0 if neither can be told."""
        if not self.known:
            return 0
        return int(self.mean - self.half > threshold) - int(self.mean + self.half < threshold)

    def among(self, comparisons: int) -> "Interval":
        """The interval at the confidence 1 − 0.05/m, for one of m comparisons (Bonferroni)."""
        wider = _quantile(self.degrees, comparisons) / _quantile(self.degrees)
        return replace(self, half=self.half * wider, images=self.images * wider)

    def chance(self, threshold: float = 0.0) -> float:
        """The p-value, two-sided, of the value being the threshold."""
        apart = abs(self.mean - threshold)
        if not self.half:
            return float(apart == 0)
        return float(2 * stdtr(self.degrees, -apart / self.half * _quantile(self.degrees)))


def _quantile(degrees: float, comparisons: int = 1) -> float:
    return float(stdtrit(degrees, 1 - (1 - CONFIDENCE) / comparisons / 2))


def interval(values: Iterable[float]) -> Interval:
    """Mean and interval of values that are drawn independently; NaN ones are left out."""
    sample = np.asarray([value for value in values if not math.isnan(value)], np.float64)
    degrees = len(sample) - 1
    if degrees < 1:  # of a single value nobody knows the spread
        return Interval(float(sample.mean()) if len(sample) else math.nan, math.nan)
    error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    return Interval(float(sample.mean()), _quantile(degrees) * error, SEEDS, degrees)


def crossed(values: ArrayLike, *, floor: bool = False) -> Interval:
    """Mean and interval of what each seed measures of each image, over both.

    Args:
        values: (seeds, images), no NaN.
        floor: whether another seed would give the same: then the images are all that one seed's interval has to cover.
    """
    y = np.asarray(values, np.float64)
    (n, m), mean = y.shape, float(y.mean())
    if m < 2 or (n < 2 and not floor):  # noqa: PLR2004 - of a single value nobody knows the spread
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
    """Intervals of one question, each so wide that it leaves its threshold (0) out only where Holm's procedure does.

    In the order of their p-values the k-th of m is compared at 1 − 0.05/(m − k + 1); once one holds its threshold, so
    do all after it. Those that are not known count for nothing.
    """
    limits = thresholds or [0.0] * len(intervals)
    chances = {i: each.chance(limits[i]) for i, each in enumerate(intervals) if each.known}
    found, left = list(intervals), len(chances)
    for i in sorted(chances, key=chances.__getitem__):
        found[i] = intervals[i].among(left)
        left -= found[i].side(limits[i]) != 0
    return found
