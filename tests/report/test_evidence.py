"""Intervals from values of single images, and rankings from these intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from aelab.report.evidence import Entry, Evidence
from aelab.report.intervals import BOTH, IMAGES, SEEDS, Interval, crossed, interval

COUNT = 400
RNG = np.random.default_rng(0)
STATE = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _seeded() -> None:
    RNG.bit_generator.state = STATE


def images_of(values: Mapping[str, NDArray[np.float64]]) -> dict[str, pd.DataFrame]:
    return {name: pd.DataFrame(each) for name, each in values.items()}


def drawn(mean: float, *, spread: float = 1.0, noise: float = 0.1, seeds: int = 3) -> NDArray[np.float64]:
    """Values of images that spread by `spread`, equal for equal states, plus `noise` for each seed."""
    shared = np.random.default_rng(1).normal(0, spread, COUNT)
    return mean + shared + RNG.normal(0, noise, (seeds, COUNT)) + RNG.normal(0, 0.01, (seeds, 1))


def evidence(*entries: Entry, extra: Mapping[str, Mapping[str, Sequence[float]]] | None = None) -> Evidence:
    """Evidence with metrics of single images, their means, and further metrics by seed."""
    rows = []
    for entry in entries:
        more = (extra or {}).get(entry.name, {})
        seeds = next((each.index for each in entry.images.values()), range(len(next(iter(more.values()), []))))
        for i, seed in enumerate(seeds):
            means = {name: float(each.loc[seed].mean()) for name, each in entry.images.items()}
            rows.append({"entry": entry.name, "seed": seed} | means | {name: each[i] for name, each in more.items()})
    return Evidence(list(entries), pd.DataFrame(rows))


def entry(name: str, mean: float) -> Entry:
    return Entry(name, images=images_of({"mse": drawn(mean)}))


def test_a_mean_covers_images_where_their_values_are_kept() -> None:
    one = entry("one", 5.0)
    found = evidence(one, extra={"one": {"ssim": [0.5, 0.6, 0.7]}})
    both, alone = found.mean(one, "mse"), found.mean(one, "ssim")
    assert (both.over, alone.over) == (BOTH, SEEDS)
    assert both == crossed(one.images["mse"].to_numpy())
    assert alone == interval([0.5, 0.6, 0.7])
    assert both.half > 2 * interval(found.values(one, "mse")).half
    assert found.per_image(one, "ssim") is None


def test_differences_are_paired_by_image() -> None:
    """Both entries have the same spread over images, which therefore cancels in the difference."""
    one, two = entry("one", 5.0), entry("two", 5.1)
    found = evidence(one, two)
    gap = found.difference(two, one, "mse")
    assert gap.over == BOTH
    assert gap.mean == pytest.approx(0.1, abs=0.05)
    assert gap.half < 0.6 * found.mean(one, "mse").half
    shuffled = replace(two, images={"mse": two.images["mse"].iloc[:, ::-1].set_axis(range(COUNT), axis="columns")})
    assert evidence(one, shuffled).difference(shuffled, one, "mse").half > 1.5 * gap.half


def test_other_images_are_not_paired() -> None:
    one, two = entry("one", 5.0), entry("two", 5.1)
    fewer = replace(two, images={"mse": two.images["mse"].iloc[:, :50]})
    gap = evidence(one, fewer).difference(fewer, one, "mse")
    assert gap.over == SEEDS
    assert gap.known


def test_seeds_pair_by_their_number_and_those_that_diverged_nowhere() -> None:
    one, two = entry("one", 5.0), entry("two", 5.0)
    found = evidence(one, replace(two, images={"mse": two.images["mse"].iloc[[2, 0]]}))
    gap = found.difference(found.entries[1], one, "mse")
    rows = [0, 2]
    assert gap == crossed((two.images["mse"] - one.images["mse"]).loc[rows])
    single = evidence(one, replace(two, images={"mse": two.images["mse"].iloc[[1]]}))
    assert not single.difference(single.entries[1], one, "mse").known


def test_a_floor_stands_for_all_seeds_and_is_never_ranked() -> None:
    floor = Entry("pca", images=images_of({"mse": drawn(4.0, seeds=1)}), floor=True)
    one, two = entry("one", 5.0), entry("two", 5.1)
    found = evidence(one, two, floor)
    assert found.mean(floor, "mse").over == IMAGES
    gap = found.difference(one, floor, "mse")
    assert gap == crossed(one.images["mse"] - floor.images["mse"].iloc[0])
    back = found.difference(floor, one, "mse")
    assert (back.mean, back.half) == pytest.approx((-gap.mean, gap.half))
    assert found.leaders("mse") == {"one"}
    assert found.group("entries") == [one, two]
    other = Entry("identity", images=images_of({"mse": drawn(4.5, seeds=1)}), floor=True)
    assert evidence(floor, other).difference(other, floor, "mse").over == IMAGES


def test_a_floor_without_images_stands_for_all_seeds_too() -> None:
    floor, one = Entry("pca", floor=True), Entry("one")
    found = evidence(one, floor, extra={"one": {"jump": [2.0, 3.0, 4.0]}, "pca": {"jump": [1.0]}})
    assert found.difference(one, floor, "jump") == interval([1.0, 2.0, 3.0])
    assert not found.mean(floor, "jump").known


@pytest.mark.parametrize(
    "name", ["parameters", "train_seconds", "train_cpu_seconds", "images_per_second", "peak_memory_mib"]
)
def test_costs_have_no_interval_and_no_best(name: str) -> None:
    one, two = Entry("one"), Entry("two")
    found = evidence(one, two, extra={"one": {name: [1.0, 1.1, 1.2]}, "two": {name: [9.0, 9.1, 9.2]}})
    assert found.leaders(name) == set()
    assert not found.mean(one, name).known
    assert not found.difference(one, two, name).known
    assert found.difference(two, one, name).mean == pytest.approx(8)
    control = evidence(one, two, extra={"one": {"jump": [1.0, 1.1, 1.2]}, "two": {"jump": [9.0, 9.1, 9.2]}})
    assert control.leaders("jump") == {"one"}


def by_seed(**values: Sequence[float] | NDArray[np.float64]) -> Evidence:
    entries = [Entry(name) for name in values]
    return evidence(*entries, extra={name: {"jump": list(each)} for name, each in values.items()})


def test_differences_are_paired_by_seed() -> None:
    noise = RNG.normal(size=5)
    found = by_seed(ours=noise, theirs=noise - 0.1 + RNG.normal(scale=0.01, size=5))
    ours, theirs = found.entries
    paired = stats.ttest_rel(found.values(ours, "jump"), found.values(theirs, "jump")).confidence_interval()
    gap = found.difference(ours, theirs, "jump")
    assert (gap.mean - gap.half, gap.mean + gap.half) == pytest.approx((paired.low, paired.high))
    assert gap.side(0) == 1
    assert found.mean(ours, "jump").half > 10 * gap.half
    shuffled = replace(found, results=found.results.sample(frac=1, random_state=0))  # seeds make pairs, not rows
    assert shuffled.difference(ours, theirs, "jump").half == pytest.approx(gap.half)


def test_seeds_that_one_entry_lacks_pair_nowhere() -> None:
    nan = math.nan
    found = by_seed(ours=[1.0, 2.0, 300.0, nan], theirs=[0.0, 1.0, nan, -900.0])
    ours, theirs = found.entries
    assert found.difference(ours, theirs, "jump") == Interval(1.0, 0.0)
    lone = by_seed(ours=[1.0, 2.0], theirs=[0.0, nan])
    assert not lone.difference(lone.entries[0], lone.entries[1], "jump").known


def test_who_ties_with_the_best_leads_too() -> None:
    noise = RNG.normal(size=5)
    values = {"a": noise, "b": noise + RNG.normal(scale=0.1, size=5), "c": noise + 1.0, "d": noise - 9.0}
    assert by_seed(**{name: values[name] for name in "abc"}).leaders("jump") == {"a", "b"}
    assert by_seed(**values).leaders("jump") == {"d"}
    assert by_seed(**values).leaders("perplexity") == set()


def test_a_tie_is_not_passed_on() -> None:
    """a ties with b, and b with c, but c is worse than a: only ties with the best count."""
    a, noise = np.array([1.0, 1.1, 0.9]), np.array([-1.0, 0.0, 1.0])
    values = {"a": a, "b": a + 0.1 + 0.1 * noise, "c": a + 0.3 + 0.01 * noise}
    found = by_seed(**values)
    assert found.difference(found.entries[1], found.entries[2], "jump").side(0) == 0
    assert found.leaders("jump") == {"a", "b"}


def test_nothing_leads_that_cannot_be_compared() -> None:
    nan = math.nan
    values = {"a": [1.0, 2.0, nan], "b": [nan, 9.0, 9.0], "c": [nan, nan, -9.0]}
    assert by_seed(**values).leaders("jump") == set()  # a and b share one seed; c has one seed
    assert by_seed(a=[1.0], b=[2.0]).leaders("jump") == set()
    assert by_seed(a=[1.0, 2.0]).leaders("jump") == set()
    assert by_seed(**values, d=[8.0, 8.0, 8.0]).leaders("jump") == {"a"}


def test_all_that_are_compared_with_the_best_share_one_confidence() -> None:
    a, gap = np.array([0.0, 0.1, -0.1, 0.05]), [0.1, 0.2, 0.12, 0.3]  # significant alone at 95 %: p = 0.03
    assert by_seed(a=a, b=a + gap).leaders("jump") == {"a"}
    equal = {name: a + np.array([0.3, -0.2, 0.3, -0.2]) + 0.01 * i for i, name in enumerate("cdefg")}
    assert by_seed(a=a, b=a + gap, **equal).leaders("jump") == set("abcdefg")
    worse = {name: each + 100 for name, each in equal.items()}
    assert by_seed(a=a, b=a + gap, **worse).leaders("jump") == {"a"}  # fewer comparisons are left


def bound(images: int, count: int, seeds: int = 3) -> Entry:
    """An entry with −ELBO of all images, and the gap of `count` images, correlated with −ELBO."""
    neg_elbo = 100 + 20 * RNG.normal(size=images) + RNG.normal(size=(seeds, images))
    gap = np.full((seeds, images), math.nan)
    chosen = np.linspace(0, images - 1, count).round().astype(int)
    gap[:, chosen] = 6 + 0.05 * (neg_elbo[:, chosen] - 100) + RNG.normal(0, 0.5, (1, count))
    return Entry("vae", images=images_of({"neg_elbo": neg_elbo, "nll": neg_elbo - gap, "nll_gap": gap}))


def test_the_bound_rests_on_all_images_and_the_gap_of_a_few() -> None:
    """The variance is Var(−ELBO)/N + Var(gap)/n − 2·Cov/N over the images of one seed."""
    vae = replace(bound(2000, 100, seeds=1), floor=True)  # with one seed, only images vary
    found = evidence(vae)
    values = found.per_image(vae, "nll")
    assert values is not None
    neg_elbo, gap = vae.images["neg_elbo"].loc[0], vae.images["nll_gap"].loc[0].dropna()
    assert values.loc[0].mean() == pytest.approx(neg_elbo.mean() - gap.mean())
    covariance = np.cov(neg_elbo[gap.index], gap)
    expected = neg_elbo.var() / 2000 + gap.var() / 100 - 2 * covariance[0, 1] / 2000
    assert values.loc[0].var() / 2000 == pytest.approx(expected, rel=0.02)
    assert found.mean(vae, "nll").half == pytest.approx(1.96 * math.sqrt(expected), rel=0.02)


def test_the_bounds_interval_holds_the_truth_and_one_over_seeds_alone_does_not() -> None:
    held, alone = 0, 0
    for _ in range(200):
        vae = bound(500, 50)
        found = evidence(vae, extra={})
        held += found.mean(vae, "nll").side(94) == 0
        values = found.per_image(vae, "nll")
        assert values is not None
        alone += interval(values.mean(axis=1)).side(94) == 0
    assert 0.91 < held / 200 < 0.99
    assert alone / 200 < 0.5


def test_the_bound_of_all_images_is_their_mean() -> None:
    vae = bound(60, 60)
    found = evidence(vae)
    assert found.mean(vae, "nll") == crossed(vae.images["nll"])


@pytest.mark.parametrize(
    ("term", "linear"),
    [("denoising_mse - copying_mse", True), ("100 * copying_mse", True), ("denoising_mse / copying_mse", False)],
)
def test_a_term_of_metrics_has_an_interval_over_images(term: str, linear: bool) -> None:  # noqa: FBT001
    one = Entry("one", images=images_of({"denoising_mse": drawn(5.0), "copying_mse": drawn(4.0)}))
    found = evidence(one)
    value = found.mean_term(one, term)
    assert value.over == BOTH
    assert value.mean == pytest.approx(found.term(one, term).mean())
    d, c = (one.images[name].to_numpy() for name in ("denoising_mse", "copying_mse"))
    if linear:
        assert value.half == pytest.approx(crossed(d - c if "-" in term else 100 * c).half, rel=1e-4)
    else:
        ratio = d.mean() / c.mean()
        assert value.half == pytest.approx(crossed((d - ratio * c) / c.mean()).half, rel=0.01)


def test_a_term_with_a_metric_of_whole_splits_covers_seeds_alone() -> None:
    one = entry("one", 5.0)
    found = evidence(one, extra={"one": {"generalisation": [1.0, 1.1, 1.2]}})
    assert found.mean_term(one, "100 * generalisation") == interval([100.0, 110.0, 120.0])
    assert found.mean_term(one, "mse * generalisation").over == SEEDS
