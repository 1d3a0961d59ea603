import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from aelab.report.intervals import Interval, difference, interval, leaders

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=5)  # shared by two entries of one seed


def test_the_interval_is_students() -> None:
    values = RNG.normal(3.0, 2.0, 4)
    found = interval(values)
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_it_holds_the_mean_in_95_of_100_cases() -> None:
    held = [interval(RNG.normal(1.0, 2.0, 3)).side(1.0) == 0 for _ in range(4000)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_differences_are_paired_by_seed() -> None:
    ours, theirs = pd.Series(NOISE), pd.Series(NOISE - 0.1 + RNG.normal(scale=0.01, size=5))
    paired = stats.ttest_rel(ours, theirs).confidence_interval()
    found = difference(ours, theirs)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((paired.low, paired.high))
    assert found.side(0) == 1
    assert interval(ours).half > 10 * found.half
    shuffled = theirs.sample(frac=1, random_state=0)  # the seeds count, not their order
    assert difference(ours, shuffled) == found


def test_seeds_that_one_entry_lacks_pair_nowhere() -> None:
    ours, theirs = pd.Series([1.0, 2.0, 300.0], [0, 1, 2]), pd.Series([0.0, 1.0, -900.0], [0, 1, 3])
    assert difference(ours, theirs) == Interval(1.0, 0.0)
    assert not difference(ours, theirs[[1]]).known


def test_one_seed_tells_nothing() -> None:
    one = interval([3.0])
    assert one.mean == 3.0
    assert not one.known
    assert one.side(-1e9) == 0
    assert math.isnan(interval([]).mean)


def test_values_without_spread_have_a_point_as_interval() -> None:
    assert interval([2.0, 2.0, 2.0]) == Interval(2.0, 0.0)
    assert [interval([2.0, 2.0]).side(each) for each in (1.0, 2.0, 3.0)] == [1, 0, -1]


def test_who_ties_with_the_best_leads_too() -> None:
    values = pd.DataFrame({"a": NOISE, "b": NOISE + RNG.normal(scale=0.1, size=5), "c": NOISE + 1.0, "d": NOISE - 9.0})
    assert leaders(values.drop(columns="d"), "lower") == {"a", "b"}
    assert leaders(values, "lower") == {"d"}
    assert leaders(values, "higher") == {"c"}
    assert leaders(values, None) == set()


def test_nothing_leads_that_cannot_be_compared() -> None:
    values = pd.DataFrame({"a": [1.0, 2.0, math.nan], "b": [math.nan, 9.0, 9.0], "c": [math.nan, math.nan, -9.0]})
    assert leaders(values, "lower") == set()  # one seed in common is no pair, and c has one seed at all
    assert leaders(values.iloc[:1], "lower") == set()
    assert leaders(values[["a"]], "lower") == set()
    assert leaders(values.assign(d=[8.0, 8.0, 8.0]), "lower") == {"a"}


def test_picked_comparisons_need_more_to_be_sure() -> None:
    values = [1.0, 1.4, 1.1]
    alone, picked = interval(values), interval(values, comparisons=4)
    assert picked.mean == alone.mean
    assert picked.half == pytest.approx(alone.half * stats.t.ppf(1 - 0.05 / 8, 2) / stats.t.ppf(0.975, 2))


def test_noise_alone_is_rarely_told_apart_however_many_there_are() -> None:
    """Five equal entries, each pair compared: at 95 % each, the highest would stand out in far more than one of 20."""
    rng = np.random.default_rng(0)
    worlds, pairs = 500, 10
    found = {1: 0, pairs: 0}
    for _ in range(worlds):
        values = rng.normal(size=(5, 3))
        first = values[values.mean(1).argmax()]
        others = [each for each in values if each is not first and not np.array_equal(each, first)]
        for comparisons in found:
            found[comparisons] += any(interval(first - each, comparisons).side(0) == 1 for each in others)
    assert found[pairs] / worlds < 0.05
    assert found[1] / worlds > 0.1
