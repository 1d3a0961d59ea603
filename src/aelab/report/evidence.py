"""Evidence for the report: entries, their metrics by seed, and comparisons between entries.

An entry is a model configuration in `params.yaml`. The report selects entries by their properties, such as their
training images or their metrics, never by their names.
"""

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aelab.report.intervals import Interval, crossed, holm, interval
from aelab.report.metrics import COST, metric

Curve: TypeAlias = Sequence[Mapping[str, Any]]  # points of a learning curve: phase, step, time, losses
Line: TypeAlias = Sequence[tuple[float, Interval]]  # x values, each with a mean and its interval

CLEAN = "clean"  # the `inputs` of an entry that learns from uncorrupted images


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry of the report: parameters, learning curves, and metrics of single images.

    The metrics over all images are in `Evidence.results`.

    Attributes:
        name: name of the entry.
        pixels: how the likelihood models a pixel; None without a likelihood.
        parameters: the entry's section of `params.yaml`, with dotted keys such as "quantizer.codes".
        curves: learning curves, one for each finished seed.
        symptoms: faults of the entry's models, such as a collapsed codebook; a fault of one seed suffices.
        floor: True for a baseline, such as PCA, which is the same for every seed and never ranked.
        images: for each metric, a table with a row per seed and a column per test image; NaN: not measured.
        code_size: size of the code of an image in words: "32 numbers", "49 codes of 512: 441 bits".
        code_bits: size of a discrete code in bits; None for a continuous code.
        dimensions: number of values in an image, C·H·W.
        learned: corruptions of the training images, spelt as in names of metrics: "masking-0.5".
        looks: how often the first phase of the training saw each training image: steps · batch size ÷ images.
    """

    name: str
    pixels: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    symptoms: Sequence[str] = ()
    floor: bool = False
    images: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    code_size: str = ""
    code_bits: float | None = None
    dimensions: int = 0
    learned: Sequence[str] = ()
    looks: float = math.nan

    @property
    def plain(self) -> bool:
        """Whether the entry minimises only the squared error, on clean images."""
        parts = {name for curve in self.curves for point in curve for name in point if name.startswith("train_")}
        return self.clean and self.pixels is None and parts <= {"train_loss", "train_mse"}

    @property
    def clean(self) -> bool:
        """Whether the entry learned from clean images."""
        return self.parameters.get("inputs") == CLEAN

    @property
    def room(self) -> bool:
        """Whether the code has at least as many numbers as an image, and so could be a copy of the image."""
        return 0 < self.dimensions <= self.parameters.get("code", 0)

    @property
    def codes(self) -> int:
        """Number of codes in all codebooks; 0 if the parameters have none."""
        if "quantizer.levels" in self.parameters:
            return math.prod(self.parameters["quantizer.levels"])
        if "quantizer.bits" in self.parameters:
            return int(2 ** self.parameters["quantizer.bits"])
        return int(self.parameters.get("quantizer.codes", 0)) * int(self.parameters.get("quantizer.depth", 1))


MANY = 100  # a model may memorise the training images if it saw each image at least this often
# Groups of trained entries, without floors. Each function says whether an entry belongs to the group. Its second
# argument is whether the entry has a codebook.
TRAINED: dict[str, Callable[[Entry, bool], bool]] = {
    "entries": lambda *_: True,
    "plain autoencoders": lambda entry, _: entry.plain,
    "plain autoencoders with room for a copy": lambda entry, _: entry.plain and entry.room,
    "plain autoencoders with many looks": lambda entry, _: entry.plain and entry.looks >= MANY,
    "autoencoders without a prior": lambda entry, _: entry.pixels is None,
    "entries that learned from corrupted images": lambda entry, _: not entry.clean,
    "denoising autoencoders": lambda entry, _: not entry.clean and entry.pixels is None,
    "denoising autoencoders with room for a copy": lambda entry, _: not entry.clean and entry.room,
    "denoising autoencoders with many looks": lambda entry, _: not entry.clean and entry.looks >= MANY,
    "variational autoencoders": lambda entry, codebook: entry.pixels is not None and not codebook,
    "autoencoders with a codebook": lambda _, codebook: codebook,
    "codebooks with a commitment loss": lambda entry, codebook: codebook and entry.parameters.get("beta", 0) > 0,
    "codebooks without a commitment loss": lambda entry, codebook: codebook and entry.parameters.get("beta") == 0,
}
WITH_FLOORS: dict[str, Callable[[Entry], bool]] = {  # groups that may include floors
    "floors": lambda entry: entry.floor,
    "PCA": lambda entry: entry.floor and entry.parameters.get("code", math.inf) < entry.dimensions,
    "entries that saw no noise": lambda entry: entry.clean,  # the identity belongs to this group
}


@dataclass(frozen=True)
class Evidence:
    """Results of several entries, and their comparisons.

    Attributes:
        entries: the entries, in the order of the report.
        results: a row of metrics for each finished seed, with the columns `entry` and `seed`.
    """

    entries: Sequence[Entry]
    results: pd.DataFrame

    def of(self, entries: Sequence[Entry]) -> "Evidence":
        """Return the evidence that concerns `entries` only."""
        return Evidence(entries, self.results[self.results["entry"].isin([entry.name for entry in entries])])

    @property
    def trained(self) -> "Evidence":
        """Evidence without the floors."""
        return self.of([entry for entry in self.entries if not entry.floor])

    @property
    def sound(self) -> "Evidence":
        """Evidence of the trained entries without symptoms; if all have symptoms, of all trained entries."""
        trained = self.trained
        return self.of([entry for entry in trained.entries if not entry.symptoms] or trained.entries)

    @cached_property
    def by_entry(self) -> dict[Hashable, pd.DataFrame]:
        """Tables of metrics by entry, each with a row for each seed."""
        return {name: rows.set_index("seed") for name, rows in self.results.groupby("entry")}

    def values(self, entry: Entry, name: str) -> pd.Series:
        """Return a metric of an entry by seed. Seeds without a value are left out."""
        key = entry.name, name
        if key not in self._values:
            mine = self.by_entry.get(entry.name)
            self._values[key] = pd.Series(dtype=float) if mine is None or name not in mine else mine[name].dropna()
        return self._values[key]

    @cached_property
    def _values(self) -> dict[tuple[str, str], pd.Series]:
        """Cache of `values`, by entry and metric."""
        return {}

    def per_image(self, entry: Entry, name: str) -> pd.DataFrame | None:
        """Return the values of a metric for single test images, seeds × images; None if the metric has no such values.

        The importance-weighted bound `nll` is measured only for n of the N images, and −ELBO for all N. The gap of an
        image is −ELBO − nll, and ḡ is the mean gap of the n images. The estimate of the mean `nll` is the mean −ELBO
        minus ḡ. The value of image x_i is

            −ELBO(x_i) − ḡ − N/n·(gap(x_i) − ḡ),  without the last term if the gap of x_i was not measured

        The mean of these values is the estimate. The variance of the values ÷ N is the variance of the estimate over
        images: Var(−ELBO)/N + Var(gap)/n − 2·Cov(−ELBO, gap)/N.
        """
        key = entry.name, name
        if key not in self._images:
            found = _kept(entry, name, self.values(entry, name).index)
            every = _kept(entry, "neg_elbo", found.index) if name == "nll" else found
            if found.shape[1] < every.shape[1]:
                found = every - _spread(_kept(entry, "nll_gap", found.index), every.columns)
            self._images[key] = None if found.empty else found
        return self._images[key]

    @cached_property
    def _images(self) -> dict[tuple[str, str], pd.DataFrame | None]:
        """Cache of `per_image`, by entry and metric."""
        return {}

    def term(self, entry: Entry, text: str) -> pd.Series:
        """Return the value of a term, such as `100 * codes_used / codes`, by seed. Seeds without a value are left out.

        Args:
            entry: the entry.
            text: arithmetic expression of metrics, numbers and `codes`, which is the entry's number of codes.
        """
        return _evaluated(text, self._terms(entry, text))

    def _terms(self, entry: Entry, text: str) -> dict[str, Any]:
        """Return the value of each name in a term: values by seed for a metric, and one number for `codes`."""
        names = re.findall("[a-z_]+", text)
        return {name: (entry.codes or math.nan) if name == "codes" else self.values(entry, name) for name in names}

    def mean_term(self, entry: Entry, text: str) -> Interval:
        """Return the mean of a term, with its interval.

        If all metrics of the term have values of single images, the interval covers seeds and images; otherwise only
        seeds. The value of an image follows from the delta method. For each metric, the image's deviation from the mean
        of the metric is multiplied by the derivative of the term by the metric. The value is the term at the means plus
        the sum of these products.
        """
        values = self._terms(entry, text)
        measured = [name for name, each in values.items() if isinstance(each, pd.Series)]
        images = {name: each for name in measured if (each := self.per_image(entry, name)) is not None}
        if not measured or len(images) < len(measured):
            return interval(_evaluated(text, values))
        means = {name: each.mean(axis=1) for name, each in images.items()}
        every = max((each.columns for each in images.values()), key=len)
        base = _evaluated(text, values | means)
        total = pd.DataFrame(np.repeat(base.to_numpy()[:, None], len(every), 1), base.index, every)
        for name, mean in means.items():
            step = mean.abs() * 1e-6 + 1e-12
            slope = (_evaluated(text, values | means | {name: mean + step}) - base) / step
            total += _spread(images[name], every).sub(mean, axis=0).mul(slope, axis=0)
        return crossed(total.dropna(), floor=entry.floor)

    def mean(self, entry: Entry, name: str) -> Interval:
        """Return the mean of a metric over the seeds.

        The interval covers seeds. If the metric is a mean over images, the interval also covers images. Costs, such
        as the training time, have no interval, since they depend on other work of the machine.
        """
        values = self.values(entry, name)
        if name in COST:
            return Interval(float(values.mean()), math.nan)
        images = self.per_image(entry, name)
        return interval(values) if images is None else crossed(images, floor=entry.floor)

    def difference(self, ours: Entry, theirs: Entry, name: str, against: str = "") -> Interval:
        """Return the difference ours − theirs of a metric, paired by seed and by image.

        A floor has only one seed, which is paired with every seed of the other entry.

        Args:
            ours: the first entry.
            theirs: the second entry.
            name: the metric.
            against: the metric of `theirs`, if it differs from `name`.
        """
        first, second = self.per_image(ours, name), self.per_image(theirs, against or name)
        alike = first is not None and second is not None and first.columns.equals(second.columns)
        if name in COST or not alike:
            gaps = _paired(self.values(ours, name), self.values(theirs, against or name), ours, theirs)
            return Interval(float(gaps.mean()), math.nan) if name in COST else interval(gaps)
        gaps = _paired(first, second, ours, theirs).dropna()
        return crossed(gaps, floor=ours.floor and theirs.floor) if len(gaps) else Interval(math.nan, math.nan)

    def having(self, *names: str) -> list[Entry]:
        """Return the entries that define all metrics in `names`."""
        return [entry for entry in self.entries if all(len(self.values(entry, name)) for name in names)]

    def to_beat(self, name: str) -> dict[Entry, Interval]:
        """Return the floors that define a metric, with their means. A floor at 0 is left out: no entry can beat it."""
        means = {entry: self.mean(entry, name) for entry in self.having(name) if entry.floor}
        return {entry: mean for entry, mean in means.items() if mean.mean}

    def group(self, name: str) -> list[Entry]:
        """Return the entries of a group: a key of `WITH_FLOORS` or `TRAINED`."""
        if name in WITH_FLOORS:
            return [entry for entry in self.entries if WITH_FLOORS[name](entry)]
        discrete = self.having("codes_used")
        return [entry for entry in self.trained.entries if TRAINED[name](entry, entry in discrete)]

    def best(self, entries: Iterable[Entry], name: str, *, worst: bool = False) -> Entry:
        """Return the entry with the best mean of a metric: the highest mean if higher is better, else the lowest.

        With `worst`, return the entry with the worst mean.
        """
        highest = (metric(name.removeprefix("validation_")).better == "higher") != worst
        return (max if highest else min)(entries, key=lambda entry: self.values(entry, name).mean())

    def behind(self, name: str, entries: Iterable[Entry] | None = None) -> tuple[Entry, dict[Entry, Interval]] | None:
        """Rank entries by a metric: return the best entry, and the differences of the others to the best; or None.

        Floors and entries with fewer than two seeds are not ranked. The result is None if fewer than two entries are
        ranked, and for a cost or a metric of which no value is best. `holm` widens the intervals of the differences.

        Args:
            name: the metric.
            entries: the entries to rank; all if None. For a likelihood, all must have the same kind of pixels.
        """
        some = self.entries if entries is None else entries
        ranked = [entry for entry in some if not entry.floor and len(self.values(entry, name)) > 1]
        if not ranked or metric(name.removeprefix("validation_")).better is None:
            return None
        best = self.best(ranked, name)
        others = [entry for entry in ranked if entry is not best]
        gaps = dict(zip(others, holm([self.difference(each, best, name) for each in others]), strict=True))
        return (best, gaps) if any(gap.known for gap in gaps.values()) else None

    def leaders(self, name: str, entries: Iterable[Entry] | None = None) -> set[str]:
        """Return the names of the best entry and of the entries that tie with the best.

        Entries that tie only with another entry, not with the best, are left out.

        Args:
            name: the metric.
            entries: the entries to rank; all if None.
        """
        found = self.behind(name, entries)
        if found is None:
            return set()
        best, gaps = found
        return {best.name} | {entry.name for entry, gap in gaps.items() if gap.known and gap.side(0) == 0}

    def advantage(
        self, ours: Sequence[Entry], theirs: Sequence[Entry], name: str, against: str = "", *, worst: bool = False
    ) -> tuple[Entry, Entry, Interval]:
        """Return the best entry of each of two groups, and by how much the best of `ours` is better than the other.

        The same results select the two entries and compare them. The interval is therefore widened as if each entry of
        `ours` were compared with each entry of `theirs`.

        Args:
            ours: the first group of entries.
            theirs: the second group of entries.
            name: the metric.
            against: the metric of `theirs`, if it differs from `name`.
            worst: compare the worst entries of both groups instead of the best.
        """
        mine, other = self.best(ours, name, worst=worst), self.best(theirs, against or name, worst=worst)
        gain = self.difference(mine, other, name, against)
        gain = gain if metric(name).better == "higher" else replace(gain, mean=-gain.mean)
        return mine, other, gain.among(len(ours) * len(theirs))

    def learned_noise(self, entries: Iterable[Entry]) -> list[str]:
        """Return the measured metrics `denoising_…` whose corruption at least one of the entries learned from."""
        names = {f"denoising_{each}" for entry in entries for each in entry.learned}
        return [name for name in noise_metrics(self.results) if name in names]

    @property
    def styles(self) -> dict[str, int]:
        """Index of each entry's colour and marker, the same in all charts."""
        return {entry.name: i for i, entry in enumerate(self.entries)}


@dataclass(frozen=True)
class RateDistortion:
    """Rate and distortion of an entry, in nats.

    Attributes:
        label: name of the entry.
        style: index of the entry's colour and marker.
        rate: rate of each seed.
        distortion: distortion of each seed.
        uniform: rate of each seed under the uniform prior; None if no prior was learned.
        family: equal for entries that differ only in β, which a line joins in the order of β; None: no line.
        beta: weight of the rate in the loss.
    """

    label: str
    style: int
    rate: NDArray[np.float64]
    distortion: NDArray[np.float64]
    uniform: NDArray[np.float64] | None = None
    family: Hashable = None
    beta: float = 1.0

    @property
    def mean(self) -> tuple[float, float]:
        """Mean rate and mean distortion over the seeds."""
        return float(self.rate.mean()), float(self.distortion.mean())


def _kept(entry: Entry, name: str, seeds: pd.Index) -> pd.DataFrame:
    """Return a metric of single images for these seeds, without images that lack a value for any of the seeds."""
    kept = entry.images.get(name, pd.DataFrame())
    return kept.loc[kept.index.intersection(seeds)].dropna(axis="columns")


def _evaluated(text: str, values: Mapping[str, Any]) -> pd.Series:
    """Return the value of a term by seed. Seeds that lack a metric of the term are left out."""
    found: pd.Series = pd.eval(text, local_dict=dict(values), global_dict={})  # type: ignore[assignment]
    return found.dropna()


def _spread(some: pd.DataFrame, every: pd.Index) -> pd.DataFrame:
    """Extend the values of n images to all N images, so that the mean and the variance of the mean stay the same."""
    values = some.to_numpy(np.float64)
    mean = values.mean(1, keepdims=True)
    found = np.repeat(mean, len(every), 1)
    found[:, every.get_indexer(some.columns)] += (values - mean) * (len(every) / some.shape[1])
    return pd.DataFrame(found, some.index, every)


def _paired(ours: Any, theirs: Any, our: Entry, their: Entry) -> Any:
    """Return ours − theirs by seed. A floor has a single seed, which is paired with each seed of the other entry."""
    if our.floor and not their.floor:
        return -(theirs - ours.iloc[0])
    return ours - (theirs.iloc[0] if their.floor and not our.floor else theirs)


def noise_levels(results: pd.DataFrame) -> dict[str, list[tuple[float, str]]]:
    """Return each kind of corruption with its levels, in ascending order, and their metrics: `mse` at level 0."""
    found: dict[str, list[tuple[float, str]]] = {}
    for name in map(str, results):
        kind, dash, level = name.removeprefix("denoising_").rpartition("-")
        if name.startswith("denoising_") and dash:
            found.setdefault(kind, [(0.0, "mse")]).append((float(level), name))
    return {kind: sorted(names) for kind, names in found.items()}


def noise_metrics(results: pd.DataFrame) -> list[str]:
    """Return the names of the denoising errors under all kinds and levels of corruption."""
    return [name for levels in noise_levels(results).values() for _, name in levels if name != "mse"]


def loss_ratios(curve: Curve, phase: str = "autoencoder") -> list[tuple[int, float]]:
    """Return the step of each validation, with its loss ÷ the mean training loss since the previous validation."""
    ratios, losses = list[tuple[int, float]](), list[float]()
    for point in curve:
        if point["phase"] != phase:
            continue
        if "train_loss" in point:
            losses.append(point["train_loss"])
        if "validation_loss" in point and losses and np.mean(losses) > 0:
            ratios.append((point["step"], point["validation_loss"] / float(np.mean(losses))))
            losses = []
    return ratios
