"""AUROC and average precision: how well an anomaly score separates n strange images from m ordinary images.

    AUROC = 1/nm · Σ_i Σ_j [s_j > s_i] + ½[s_j = s_i]      s the scores, i an ordinary image, j a strange image
    AP    = 1/n · Σ_j P_j/(P_j + F_j)                      P_j strange and F_j ordinary images have a score ≥ s_j

AUROC is the probability that a random strange image has a higher score than a random ordinary image. AP is the average
precision. A random score has an AUROC of 0.5, and an AP of about n/N, where N = n + m.

The report's confidence intervals over images need a value for each image, but AUROC and AP are not means over images.
The infinitesimal jackknife (Efron 1982) defines a value for each image. Image k has a weight w_k, which is 1. The value
of image k is the measure (AUROC or AP) plus N times the derivative of the measure with respect to w_k. For the
derivative, the total weights of the strange images and of the ordinary images stay n and m. Over each of the two sets,
the derivatives therefore sum to 0.

For AUROC, 1/N times the variance of the values is the variance of AUROC in DeLong, DeLong & Clarke-Pearson 1988.
`report.intervals.crossed` therefore returns DeLong's interval, widened by the variation between seeds. The difference
between two models is computed image by image, as in the paper of 1988.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aelab.evaluation.metric_names import MEASURES

Scores: TypeAlias = NDArray[np.floating[Any]]  # (N,), higher for stranger images
Strange: TypeAlias = NDArray[np.bool_]  # (N,), true for strange images


def measures(scores: Mapping[str, Scores], strange: Strange) -> dict[str, float]:
    """Compute AUROC and AP of each score, by name. The measures are NaN if the score of an image is not finite."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: PLC0415 - slow to import, and seldom needed

    of = dict(zip(MEASURES, (roc_auc_score, average_precision_score), strict=True))
    return {
        f"{measure}_{name}": float(function(strange, each)) if np.isfinite(each).all() else np.nan
        for measure, function in of.items()
        for name, each in scores.items()
    }


def of_each(scores: Mapping[str, Scores], strange: Strange) -> dict[str, NDArray[np.float64]]:
    """Values of the images, (N,), for AUROC and AP of each score, by name. The mean of the values is the measure."""
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
    """Share of the sorted scores `among` that are lower than each of `scores`. Equal scores count half."""
    return (np.searchsorted(among, scores) + np.searchsorted(among, scores, "right")) / (2 * len(among))


def _average_precision(scores: Scores, strange: Strange) -> NDArray[np.float64]:
    # The different scores in ascending order, and for each image the index of its score.
    levels, place = np.unique(scores, return_inverse=True)
    there = np.bincount(place[strange], minlength=len(levels))  # number of strange images with each score
    above, all_above = (np.cumsum(each[::-1])[::-1] for each in (there, np.bincount(place)))
    precision = above / all_above
    # A larger weight of a strange image raises the precision at the image's score and at all lower scores. A larger
    # weight of an ordinary image lowers the precision at these scores.
    raised, lowered = (np.cumsum(there * each) for each in ((1 - precision) / all_above, -precision / all_above))
    slopes = np.where(strange, precision[place] + raised[place], lowered[place])
    mean = float(precision[place][strange].mean())
    count = np.where(strange, strange.sum(), (~strange).sum())
    return _spread(mean + (slopes - _means(slopes, strange)) * count / strange.sum(), mean, strange)


def _spread(values: NDArray[np.float64], mean: float, strange: Strange) -> NDArray[np.float64]:
    """Multiply the deviation of each value from `mean` by N/n for strange images, and by N/m for ordinary images.

    Both the values of the strange images and the values of the ordinary images must have the mean `mean`.
    """
    count = np.where(strange, strange.sum(), (~strange).sum())
    return mean + (values - mean) * len(values) / count


def _means(values: NDArray[np.float64], strange: Strange) -> NDArray[np.float64]:
    """Return for each image the mean value of its group, which is the strange images or the ordinary images."""
    return np.where(strange, values[strange].mean(), values[~strange].mean())
