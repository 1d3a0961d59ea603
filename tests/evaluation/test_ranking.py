"""AUROC and average precision equal scikit-learn's, and the values of each image give DeLong's interval."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from aelab.evaluation import ranking
from aelab.report.intervals import crossed

N, M = 400, 90
WHICH = np.arange(N + M) >= N


def drawn(seed: int, shift: float = 1.0, *, ties: bool = False) -> NDArray[np.float64]:
    values = np.random.default_rng(seed).normal(size=N + M) + shift * WHICH
    return values.round(0) if ties else values


@pytest.mark.parametrize("ties", [False, True])
def test_the_mean_over_images_is_the_measure(*, ties: bool) -> None:
    scores = drawn(0, ties=ties)
    found = ranking.measures({"s": scores}, WHICH)
    each = ranking.of_each({"s": scores}, WHICH)
    assert found == {"auroc_s": roc_auc_score(WHICH, scores), "ap_s": average_precision_score(WHICH, scores)}
    assert {name: values.mean() for name, values in each.items()} == pytest.approx(found)


def delong(scores: NDArray[np.float64]) -> float:
    """Variance of an AUROC by DeLong's formula, S10/m + S01/n."""
    others, strange = scores[~WHICH], scores[WHICH]
    won = (strange[:, None] > others).astype(float) + 0.5 * (strange[:, None] == others)
    return float(won.mean(0).var(ddof=1) / len(others) + won.mean(1).var(ddof=1) / len(strange))


@pytest.mark.parametrize("ties", [False, True])
def test_the_interval_of_an_auroc_is_delongs(*, ties: bool) -> None:
    scores = drawn(1, ties=ties)
    each = ranking.of_each({"s": scores}, WHICH)["auroc_s"]
    assert each.var() / len(each) == pytest.approx(delong(scores), rel=0.02)
    assert crossed(each[None], floor=True).half == pytest.approx(1.96 * math.sqrt(delong(scores)), rel=0.02)


@pytest.mark.parametrize("measure", ["auroc", "ap"])
def test_the_spread_is_that_of_a_bootstrap(measure: str) -> None:
    scores, rng, again = drawn(2), np.random.default_rng(0), []
    for _ in range(300):
        rows = np.concatenate([rng.integers(0, N, N), rng.integers(N, N + M, M)])
        again.append(ranking.measures({"s": scores[rows]}, WHICH)[f"{measure}_s"])
    each = ranking.of_each({"s": scores}, WHICH)[f"{measure}_s"]
    assert each.std() / math.sqrt(len(each)) == pytest.approx(np.std(again), rel=0.15)


def test_two_scores_of_the_same_images_are_paired() -> None:
    """The difference between two scores that agree has a smaller error than either score."""
    first = drawn(3)
    second = first + 0.1 * drawn(4, 0.0)
    pair = [ranking.of_each({"s": each}, WHICH)["auroc_s"] for each in (first, second)]
    alone = crossed(pair[0][None], floor=True).half
    assert crossed((pair[0] - pair[1])[None], floor=True).half < 0.3 * alone


def test_what_ranks_backwards_is_below_a_half_and_what_is_no_number_is_no_measure() -> None:
    found = ranking.measures({"up": drawn(0), "down": -drawn(0), "gap": np.where(WHICH, np.nan, 0)}, WHICH)
    assert found["auroc_down"] == pytest.approx(1 - found["auroc_up"])
    assert found["auroc_up"] > 0.7
    assert math.isnan(found["auroc_gap"])
    assert math.isnan(found["ap_gap"])
