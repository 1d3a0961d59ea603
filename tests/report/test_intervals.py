import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from aelab.report.intervals import BOTH, IMAGES, SEEDS, Interval, crossed, holm, interval

RNG = np.random.default_rng(0)
STATE = RNG.bit_generator.state
NOISE = RNG.normal(size=5)  # equal for both entries of a seed


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Generator in the same state for each test."""
    RNG.bit_generator.state = STATE


def test_the_interval_is_students() -> None:
    values = RNG.normal(3.0, 2.0, 4)
    found = interval(values)
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.over == SEEDS


def test_it_holds_the_mean_in_95_of_100_cases() -> None:
    held = [interval(RNG.normal(1.0, 2.0, 3)).side(1.0) == 0 for _ in range(4000)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_one_seed_tells_nothing() -> None:
    one = interval([3.0])
    assert one.mean == 3.0
    assert not one.known
    assert one.side(-1e9) == 0
    assert math.isnan(interval([]).mean)


def test_values_without_spread_have_a_point_as_interval() -> None:
    assert interval([2.0, 2.0, 2.0]) == Interval(2.0, 0.0)
    assert [interval([2.0, 2.0]).side(each) for each in (1.0, 2.0, 3.0)] == [1, 0, -1]
    assert crossed(np.full((3, 4), 2.0)) == Interval(2.0, 0.0)


def drawn(seeds: int, images: int, of_seeds: float, of_images: float, rest: float) -> NDArray[np.float64]:
    """Values (seeds, images) of mean 0 with these standard deviations of seeds, images and residuals."""
    parts = [(of_seeds, (seeds, 1)), (of_images, (1, images)), (rest, (seeds, images))]
    return sum((scale * RNG.standard_normal(shape) for scale, shape in parts), np.zeros((seeds, images)))


SIZES = [(3, 200, 2000), (5, 200, 2000), (3, 2000, 900), (5, 2000, 900)]
DEVIATIONS = [(1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (0.1, 3.0, 1.0), (0.05, 1.0, 0.3), (0.02, 1.0, 0.0)]


@pytest.mark.parametrize("deviations", DEVIATIONS)
@pytest.mark.parametrize(("seeds", "images", "worlds"), SIZES)
def test_it_holds_the_mean_over_seeds_and_images(
    seeds: int, images: int, worlds: int, deviations: tuple[float, float, float]
) -> None:
    held = [crossed(drawn(seeds, images, *deviations)).side(0) == 0 for _ in range(worlds)]
    assert 0.92 < np.mean(held) < 0.98


@pytest.mark.parametrize(("seeds", "images"), [(3, 200), (5, 200), (3, 2000), (5, 2000)])
def test_an_interval_over_seeds_alone_misses_what_images_change(seeds: int, images: int) -> None:
    worlds = [drawn(seeds, images, 0.02, 1.0, 0.0) for _ in range(1000 if images < 1000 else 300)]
    alone = np.mean([interval(values.mean(1)).side(0) == 0 for values in worlds])
    assert alone < 0.92 - (0.25 if images < 1000 else 0.05)


def test_both_are_covered_and_never_less_than_seeds_alone() -> None:
    for deviations in DEVIATIONS:
        for _ in range(50):
            values = drawn(3, 100, *deviations)
            both, alone = crossed(values), interval(values.mean(1))
            assert both.over == BOTH
            assert both.mean == pytest.approx(alone.mean)
            assert both.half >= alone.half * (1 - 1e-12)


def test_the_two_way_variance_is_that_of_the_analysis_of_variance() -> None:
    """Compute the interval from mean squares, as for a table with one value in each cell."""
    y = drawn(12, 30, 0.1, 1.0, 0.5)
    rows, columns = y.mean(1), y.mean(0)
    left = y - rows[:, None] - columns + y.mean()
    expected = rows.var(ddof=1) / 12 + columns.var(ddof=1) / 30 - (left**2).sum() / (11 * 29) / 360
    found = crossed(y)
    assert found.half / stats.t.ppf(0.975, found.degrees) == pytest.approx(math.sqrt(expected))
    assert found.degrees > 25  # 30 images cause nearly all of the variance


def test_it_knows_what_other_images_alone_would_change() -> None:
    """`images` is 0 if all images agree, the whole interval if all seeds agree, else the interval of one training."""
    of_images, of_seeds = RNG.normal(2.0, 1.0, (1, 50)), RNG.normal(2.0, 1.0, (4, 1))
    assert crossed(np.repeat(of_seeds, 50, axis=1)).images == pytest.approx(0.0)
    same = crossed(np.repeat(of_images, 4, axis=0))
    assert same.images == pytest.approx(interval(of_images[0]).half)
    assert same.images == pytest.approx(same.half)
    y = of_images + of_seeds
    assert crossed(y).images == pytest.approx(crossed(y.mean(0)[None], floor=True).half)
    assert crossed(y).images < crossed(y).half
    wider = crossed(y).among(5)
    assert wider.images / wider.half == pytest.approx(crossed(y).images / crossed(y).half)


def test_a_floor_is_the_same_for_every_seed_and_one_training_is_not() -> None:
    images = RNG.normal(2.0, 1.0, 50)
    found = crossed(images[None], floor=True)
    assert found == interval(images)
    assert found.over == IMAGES
    assert crossed(images[None]).mean == pytest.approx(images.mean())
    assert not crossed(images[None]).known
    assert not crossed([[1.0]], floor=True).known


def test_picked_comparisons_need_more_to_be_sure() -> None:
    values = [1.0, 1.4, 1.1]
    alone, picked = interval(values), interval(values).among(4)
    assert picked.mean == alone.mean
    assert picked.half == pytest.approx(stats.t.ppf(1 - 0.05 / 8, 2) * stats.sem(values))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -3.0])
def test_the_chance_is_students_p_value(threshold: float) -> None:
    values = RNG.normal(0.5, 1.0, 6)
    assert interval(values).chance(threshold) == pytest.approx(stats.ttest_1samp(values, threshold).pvalue)
    assert [Interval(2.0, 0.0).chance(each) for each in (1.0, 2.0)] == [0.0, 1.0]


def holm_by_hand(chances: list[float]) -> list[bool]:
    rejected = [False] * len(chances)
    for rank, i in enumerate(np.argsort(chances)):
        if chances[i] > 0.05 / (len(chances) - rank):
            break
        rejected[i] = True
    return rejected


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_holm_rejects_step_by_step(count: int) -> None:
    seen = set()
    for _ in range(200):
        gaps = [interval(RNG.normal(RNG.choice([0.0, 1.0, 3.0]), 0.5, 4)) for _ in range(count)]
        found = [each.side(0) != 0 for each in holm(gaps)]
        assert found == holm_by_hand([gap.chance() for gap in gaps])
        bonferroni = [gap.among(count).side(0) != 0 for gap in gaps]
        assert all(ours or not theirs for ours, theirs in zip(found, bonferroni, strict=True))
        seen.add(sum(found) - sum(bonferroni) > 0)
    assert seen == ({False} if count == 1 else {False, True})  # Holm finds more differences than Bonferroni


def test_holm_passes_over_what_is_not_known_and_takes_thresholds() -> None:
    sure, unknown = Interval(1.0, 0.8, degrees=5), Interval(1.0, math.nan)
    assert [each.side(0) for each in holm([sure, unknown, unknown])] == [1, 0, 0]
    assert holm([sure, unknown])[0] == sure
    assert [each.side(1) for each in holm([sure, sure], [1.0, 1.0])] == [0, 0]
    assert holm([]) == []


def test_noise_alone_is_rarely_told_apart_however_many_there_are() -> None:
    """Five entries equal the first. At 95 % each, more than 1 of 20 experiments would find a difference."""
    worlds, found = 1000, {"alone": 0, "holm": 0}
    for _ in range(worlds):
        gaps = [interval(RNG.normal(size=4)) for _ in range(5)]
        found["alone"] += any(gap.side(0) for gap in gaps)
        found["holm"] += any(gap.side(0) for gap in holm(gaps))
    assert found["holm"] / worlds < 0.065
    assert found["alone"] / worlds > 0.15
