"""How well a score tells strange images from others: two measures of its ranking, and what each image adds to them.

    AUROC = 1/nm · Σ_i Σ_j [s_j > s_i] + ½[s_j = s_i]      i the m others, j the n strange images, s their scores
    AP    = 1/n · Σ_j P_j/(P_j + F_j)                      of P strange images and F others with a score of s_j or more

AUROC is the chance that a strange image has the higher score: 0.5 is no information, below it the strange ones have the
lower scores. AP, the mean precision, is the share of strange images where they are drawn at random. Neither is a mean
over images, but each is one to first order: image k adds N·∂/∂w_k at weights w = 1 (the infinitesimal jackknife, Efron
1982). For AUROC these are DeLong's structural components (DeLong, DeLong & Clarke-Pearson 1988), and their variance ÷ N
is the variance that paper gives; so `report.intervals.crossed` of them is DeLong's interval, widened by the seeds, and
the difference of two entries is paired as there. How many images are strange is given, so that each kind's sum is 0.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aelab.evaluation.metric_names import MEASURES

Scores: TypeAlias = NDArray[np.floating[Any]]  # (N,), the higher the stranger
Strange: TypeAlias = NDArray[np.bool_]  # (N,): which images are


def measures(scores: Mapping[str, Scores], strange: Strange) -> dict[str, float]:
    """AUROC and AP of each score; NaN where a value of it is not finite."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: PLC0415 - slow, and seldom needed

    of = dict(zip(MEASURES, (roc_auc_score, average_precision_score), strict=True))
    return {
        f"{measure}_{name}": float(function(strange, each)) if np.isfinite(each).all() else np.nan
        for measure, function in of.items()
        for name, each in scores.items()
    }


def of_each(scores: Mapping[str, Scores], strange: Strange) -> dict[str, NDArray[np.float64]]:
    """What each image is to the same measures: (N,) numbers whose mean is the measure."""
    of = dict(zip(MEASURES, (_auroc, _average_precision), strict=True))
    return {
        f"{measure}_{name}": function(np.asarray(each, np.float64), strange)
        for measure, function in of.items()
        for name, each in scores.items()
    }


def _auroc(scores: Scores, strange: Strange) -> NDArray[np.float64]:
    others, found = np.sort(scores[~strange]), np.sort(scores[strange])
    share = np.empty(len(scores))
    share[strange] = _below(others, scores[strange])
    share[~strange] = 1 - _below(found, scores[~strange])
    return _spread(share, float(share[strange].mean()), strange)


def _below(among: Scores, scores: Scores) -> NDArray[np.float64]:
    """The share of `among` (sorted) that is lower than each score; what is equal counts half."""
    return (np.searchsorted(among, scores) + np.searchsorted(among, scores, "right")) / (2 * len(among))


def _average_precision(scores: Scores, strange: Strange) -> NDArray[np.float64]:
    levels, place = np.unique(scores, return_inverse=True)  # from the lowest up
    there = np.bincount(place[strange], minlength=len(levels))  # strange images at each level
    above, all_above = (np.cumsum(each[::-1])[::-1] for each in (there, np.bincount(place)))
    precision = above / all_above
    # One more strange image at a level raises the precision there and below, one more of the others lowers it.
    raised, lowered = (np.cumsum(there * each) for each in ((1 - precision) / all_above, -precision / all_above))
    slopes = np.where(strange, precision[place] + raised[place], lowered[place])
    mean = float(precision[place][strange].mean())
    count = np.where(strange, strange.sum(), (~strange).sum())
    return _spread(mean + (slopes - _means(slopes, strange)) * count / strange.sum(), mean, strange)


def _spread(values: NDArray[np.float64], mean: float, strange: Strange) -> NDArray[np.float64]:
    """Values, of which those of each kind have this mean, as if all N had been measured of that kind."""
    count = np.where(strange, strange.sum(), (~strange).sum())
    return mean + (values - mean) * len(values) / count


def _means(values: NDArray[np.float64], strange: Strange) -> NDArray[np.float64]:
    return np.where(strange, values[strange].mean(), values[~strange].mean())
