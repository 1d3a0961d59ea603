"""AUROC and average precision: how well an anomaly score separates n strange images from m ordinary images.

    AUROC = 1/nm · Σ_i Σ_j [s_j > s_i] + ½[s_j = s_i]      s the scores, i an ordinary image, j a strange image
    AP    = 1/n · Σ_j P_j/(P_j + F_j)                      P_j strange and F_j ordinary images have a score ≥ s_j

AUROC is the probability that a strange image has a higher score than an ordinary image. A random score has an AUROC of
0.5, and an AP (average precision) of n/N, where N = n + m.

Neither measure is a mean over images, but intervals over images need a value for each image. The value of image k is
the measure plus N times the derivative of the measure by the image's weight w_k, at w = 1 (the infinitesimal jackknife,
Efron 1982). The derivatives treat n and m as fixed, so they sum to 0 over the strange images, and also over the
ordinary images.

For AUROC, these values are the structural components of DeLong, DeLong & Clarke-Pearson 1988, and their variance ÷ N is
the variance in that paper. `report.intervals.crossed` therefore returns DeLong's interval, widened by the variation
between seeds. The difference of two entries is computed image by image, as in the paper.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aelab.evaluation.metric_names import MEASURES

Scores: TypeAlias = NDArray[np.floating[Any]]  # (N,), higher for stranger images
Strange: TypeAlias = NDArray[np.bool_]  # (N,), true for strange images


def measures(scores: Mapping[str, Scores], strange: Strange) -> dict[str, float]:
    """Compute AUROC and AP of each score, by name; NaN if the score of an image is not finite."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: PLC0415 - slow, and seldom needed

    of = dict(zip(MEASURES, (roc_auc_score, average_precision_score), strict=True))
    return {
        f"{measure}_{name}": float(function(strange, each)) if np.isfinite(each).all() else np.nan
        for measure, function in of.items()
        for name, each in scores.items()
    }


def of_each(scores: Mapping[str, Scores], strange: Strange) -> dict[str, NDArray[np.float64]]:
    """Contribution of each image to AUROC and AP of each score, by name, (N,) each. The mean of all is the measure."""
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
    """For each of the `scores`, the share of the sorted scores `among` that are lower. Equal scores count half."""
    return (np.searchsorted(among, scores) + np.searchsorted(among, scores, "right")) / (2 * len(among))


def _average_precision(scores: Scores, strange: Strange) -> NDArray[np.float64]:
    levels, place = np.unique(scores, return_inverse=True)  # in ascending order
    there = np.bincount(place[strange], minlength=len(levels))  # number of strange images with each score
    above, all_above = (np.cumsum(each[::-1])[::-1] for each in (there, np.bincount(place)))
    precision = above / all_above
    # One more strange image raises the precision at its own score and at all lower scores. One more ordinary image
    # lowers the precision at its own score and at all lower scores.
    raised, lowered = (np.cumsum(there * each) for each in ((1 - precision) / all_above, -precision / all_above))
    slopes = np.where(strange, precision[place] + raised[place], lowered[place])
    mean = float(precision[place][strange].mean())
    count = np.where(strange, strange.sum(), (~strange).sum())
    return _spread(mean + (slopes - _means(slopes, strange)) * count / strange.sum(), mean, strange)


def _spread(values: NDArray[np.float64], mean: float, strange: Strange) -> NDArray[np.float64]:
    """Multiply the deviation of each value from `mean` by N ÷ the number of images of the same kind.

    The kinds are strange and ordinary images. The values of each kind must have the mean `mean`.
    """
    count = np.where(strange, strange.sum(), (~strange).sum())
    return mean + (values - mean) * len(values) / count


def _means(values: NDArray[np.float64], strange: Strange) -> NDArray[np.float64]:
    """Return for each image the mean value of all images of the same kind, strange or ordinary."""
    return np.where(strange, values[strange].mean(), values[~strange].mean())
