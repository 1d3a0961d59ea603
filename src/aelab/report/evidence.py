"""The results as evidence: the entries, their metrics by seed, and which of them answer a question.

Who answers is found by what an entry is: what it learned from, which metrics it defines; never by its name.
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

Curve: TypeAlias = Sequence[Mapping[str, Any]]  # points of one phase: step, time, train_loss or validation_loss
Line: TypeAlias = Sequence[tuple[float, Interval]]  # where, and what was measured there

CLEAN = "clean"  # the `inputs` of an entry that learns from uncorrupted images


@dataclass(frozen=True, eq=False)
class Entry:
    """What is known of an entry beside its metrics."""

    name: str
    pixels: str | None = None  # what a pixel is to its likelihood, if it has one
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of its section in params.yaml, by dotted keys
    curves: Sequence[Curve] = ()  # one for each seed that finished
    symptoms: Sequence[str] = ()  # of all seeds: what is wrong with a model, such as a codebook that has collapsed
    floor: bool = False  # whether it is what others have to beat: the same for every seed, and never ranked
    images: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # by metric: seeds × test images; NaN: unmeasured
    code_size: str = ""  # of one image's code, in words: "32 numbers", "49 codes of 512: 441 bits"
    code_bits: float | None = None  # where its codes are counted
    dimensions: int = 0  # of an image
    learned: Sequence[str] = ()  # the corruptions, as metrics name them, that its training images were under
    looks: float = math.nan  # that the first phase took at each training image: its steps · batch ÷ images

    @property
    def plain(self) -> bool:
        """Whether it learned to copy clean images by their squared error alone."""
        parts = {name for curve in self.curves for point in curve for name in point if name.startswith("train_")}
        return self.clean and self.pixels is None and parts <= {"train_loss", "train_mse"}

    @property
    def clean(self) -> bool:
        """Whether it learned from clean images."""
        return self.parameters.get("inputs") == CLEAN

    @property
    def room(self) -> bool:
        """Whether its code has as many numbers as an image has, so that it could be a copy."""
        return 0 < self.dimensions <= self.parameters.get("code", 0)

    @property
    def codes(self) -> int:
        """The codes of all its codebooks; 0 where the parameters do not say."""
        if "quantizer.levels" in self.parameters:
            return math.prod(self.parameters["quantizer.levels"])
        return int(self.parameters.get("quantizer.codes", 0)) * int(self.parameters.get("quantizer.depth", 1))


MANY = 100  # looks at each training image: a model that memorises has had the time
TRAINED: dict[str, Callable[[Entry, bool], bool]] = {  # which entries a sentence means, with a codebook or without one
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
WITH_FLOORS: dict[str, Callable[[Entry], bool]] = {
    "floors": lambda entry: entry.floor,
    "PCA": lambda entry: entry.floor and entry.parameters.get("code", math.inf) < entry.dimensions,
    "entries that saw no noise": lambda entry: entry.clean,  # doing nothing is one of them
}


@dataclass(frozen=True)
class Evidence:
    """The entries, and one row of metrics for each of their seeds that finished, in columns "entry" and "seed"."""

    entries: Sequence[Entry]
    results: pd.DataFrame

    def of(self, entries: Sequence[Entry]) -> "Evidence":
        """Some of the entries, and their results."""
        return Evidence(entries, self.results[self.results["entry"].isin([entry.name for entry in entries])])

    @property
    def trained(self) -> "Evidence":
        """The entries but for the floors."""
        return self.of([entry for entry in self.entries if not entry.floor])

    @property
    def sound(self) -> "Evidence":
        """The trained entries without symptoms; all of them where each has one."""
        trained = self.trained
        return self.of([entry for entry in trained.entries if not entry.symptoms] or trained.entries)

    @cached_property
    def by_entry(self) -> dict[Hashable, pd.DataFrame]:
        """The metrics of each entry that has any, one row a seed."""
        return {name: rows.set_index("seed") for name, rows in self.results.groupby("entry")}

    def values(self, entry: Entry, name: str) -> pd.Series:
        """A metric by seed, without the seeds that do not define it."""
        key = entry.name, name
        if key not in self._values:
            mine = self.by_entry.get(entry.name)
            self._values[key] = pd.Series(dtype=float) if mine is None or name not in mine else mine[name].dropna()
        return self._values[key]

    @cached_property
    def _values(self) -> dict[tuple[str, str], pd.Series]:
        """What `values` has given, by entry and metric."""
        return {}

    def per_image(self, entry: Entry, name: str) -> pd.DataFrame | None:
        """A metric of each test image: a row for each seed that defines it, a column for each image that it was
        measured of. None where it is no mean over images, or these were not kept.

        −log p(x) is an estimate: −ELBO of all N images minus the mean gap ḡ of n of them. An image x_i adds to it

            −ELBO(x_i) − ḡ − N/n·(gap(x_i) − ḡ),  the last where the gap of x_i was measured

        The mean of these is the estimate, and their variance ÷ N is the estimate's over images:
        Var(−ELBO)/N + Var(gap)/n − 2·Cov(−ELBO, gap)/N.
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
        """What `per_image` has given, by entry and metric."""
        return {}

    def term(self, entry: Entry, text: str) -> pd.Series:
        """A term of metrics, as "100 * code_distance", by seed; without the seeds that do not define all of them.

        Beside metrics it may hold `codes`, the entry's.
        """
        return _evaluated(text, self._terms(entry, text))

    def _terms(self, entry: Entry, text: str) -> dict[str, Any]:
        """The values by seed of all names in a term, or the number that is the same for all seeds."""
        names = re.findall("[a-z_]+", text)
        return {name: (entry.codes or math.nan) if name == "codes" else self.values(entry, name) for name in names}

    def mean_term(self, entry: Entry, text: str) -> Interval:
        """A term's mean, over seeds and images where all of its metrics are kept for each image: what an image adds to
        the term is what it adds to each metric, times the term's slope there (delta method).
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
        """A metric's mean over the seeds, with its interval over them and, where there are any, the values of images.

        Costs have none: what a training takes depends on what else the machine did.
        """
        values = self.values(entry, name)
        if name in COST:
            return Interval(float(values.mean()), math.nan)
        images = self.per_image(entry, name)
        return interval(values) if images is None else crossed(images, floor=entry.floor)

    def difference(self, ours: Entry, theirs: Entry, name: str, against: str = "") -> Interval:
        """Of a metric, ours − theirs, paired by seed and by image; a floor is the same for every seed. `against` is the
        metric of theirs, where it is another.
        """
        first, second = self.per_image(ours, name), self.per_image(theirs, against or name)
        alike = first is not None and second is not None and first.columns.equals(second.columns)
        if name in COST or not alike:
            gaps = _paired(self.values(ours, name), self.values(theirs, against or name), ours, theirs)
            return Interval(float(gaps.mean()), math.nan) if name in COST else interval(gaps)
        gaps = _paired(first, second, ours, theirs).dropna()
        return crossed(gaps, floor=ours.floor and theirs.floor) if len(gaps) else Interval(math.nan, math.nan)

    def having(self, *names: str) -> list[Entry]:
        """The entries that define all of these metrics."""
        return [entry for entry in self.entries if all(len(self.values(entry, name)) for name in names)]

    def to_beat(self, name: str) -> dict[Entry, Interval]:
        """The floors of a metric, each with its mean; not those at 0, which nothing is less than."""
        means = {entry: self.mean(entry, name) for entry in self.having(name) if entry.floor}
        return {entry: mean for entry, mean in means.items() if mean.mean}

    def group(self, name: str) -> list[Entry]:
        """The entries of one of `WITH_FLOORS` or `TRAINED`."""
        if name in WITH_FLOORS:
            return [entry for entry in self.entries if WITH_FLOORS[name](entry)]
        discrete = self.having("codes_used")
        return [entry for entry in self.trained.entries if TRAINED[name](entry, entry in discrete)]

    def best(self, entries: Iterable[Entry], name: str) -> Entry:
        """The entry with the best mean of a metric that they all define: the lowest, unless higher is better."""
        sign = -1 if metric(name.removeprefix("validation_")).better == "higher" else 1
        return min(entries, key=lambda entry: sign * self.values(entry, name).mean())

    def behind(self, name: str, entries: Iterable[Entry] | None = None) -> tuple[Entry, dict[Entry, Interval]] | None:
        """The entry with the best mean, and by how much each other one's mean differs from it, widened for all of them
        (`holm`); None where nothing is ranked.

        Not ranked are floors, entries with fewer than two seeds, costs, and metrics of which no value is better; and
        nothing is where there is nothing to compare the best with.

        Args:
            name: of a metric.
            entries: of which; all if not given. A likelihood's have to have the same kind of pixels.
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
        """The names of the best of these entries (of all, if not given), and of those that cannot be told from it.

        Each is compared with the best itself: who ties with one that ties with the best need not tie with the best.
        """
        found = self.behind(name, entries)
        if found is None:
            return set()
        best, gaps = found
        return {best.name} | {entry.name for entry, gap in gaps.items() if gap.known and gap.side(0) == 0}

    def advantage(
        self, ours: Sequence[Entry], theirs: Sequence[Entry], name: str, against: str = ""
    ) -> tuple[Entry, Entry, Interval]:
        """The best of ours, the best of theirs, and by how much that one is better, paired: as one of all the
        comparisons between ours and theirs, since these two are picked by the same numbers. `against` is the metric of
        theirs, where it is another.
        """
        mine, other = self.best(ours, name), self.best(theirs, against or name)
        gain = self.difference(mine, other, name, against)
        gain = gain if metric(name).better == "higher" else replace(gain, mean=-gain.mean)
        return mine, other, gain.among(len(ours) * len(theirs))

    def learned_noise(self, entries: Iterable[Entry]) -> list[str]:
        """The errors under the corruptions that some of these entries learned from, as far as they were measured."""
        names = {f"denoising_{each}" for entry in entries for each in entry.learned}
        return [name for name in noise_metrics(self.results) if name in names]

    @property
    def styles(self) -> dict[str, int]:
        """A number for each entry: the same look in all charts."""
        return {entry.name: i for i, entry in enumerate(self.entries)}


@dataclass(frozen=True)
class RateDistortion:
    """What an entry's codes cost and leave unsaid: nats of rate and of distortion, one for each seed."""

    label: str
    style: int  # the same number has the same colour and marker in every chart
    rate: NDArray[np.float64]
    distortion: NDArray[np.float64]
    uniform: NDArray[np.float64] | None = None  # the rate under the uniform prior, where another is learned
    family: Hashable = None  # entries of one family are joined, in the order of
    beta: float = 1.0

    @property
    def mean(self) -> tuple[float, float]:
        """Over the seeds."""
        return float(self.rate.mean()), float(self.distortion.mean())


def _kept(entry: Entry, name: str, seeds: pd.Index) -> pd.DataFrame:
    """What is kept of these seeds; of the images alone that all of them have."""
    kept = entry.images.get(name, pd.DataFrame())
    return kept.loc[kept.index.intersection(seeds)].dropna(axis="columns")


def _evaluated(text: str, values: Mapping[str, Any]) -> pd.Series:
    """A term of what its names stand for, by seed; without the seeds that lack one."""
    found: pd.Series = pd.eval(text, local_dict=dict(values), global_dict={})  # type: ignore[assignment]
    return found.dropna()


def _spread(some: pd.DataFrame, every: pd.Index) -> pd.DataFrame:
    """Values of n of N images as if all had been measured: mean and variance of the mean are what they were."""
    values = some.to_numpy(np.float64)
    mean = values.mean(1, keepdims=True)
    found = np.repeat(mean, len(every), 1)
    found[:, every.get_indexer(some.columns)] += (values - mean) * (len(every) / some.shape[1])
    return pd.DataFrame(found, some.index, every)


def _paired(ours: Any, theirs: Any, our: Entry, their: Entry) -> Any:
    """Ours − theirs of two frames or series by seed; the one seed of a floor stands for each of the other's."""
    if our.floor and not their.floor:
        return -(theirs - ours.iloc[0])
    return ours - (theirs.iloc[0] if their.floor and not our.floor else theirs)


def noise_levels(results: pd.DataFrame) -> dict[str, list[tuple[float, str]]]:
    """The metrics of every kind of corruption by level, "mse" at level 0."""
    found: dict[str, list[tuple[float, str]]] = {}
    for name in map(str, results):
        kind, dash, level = name.removeprefix("denoising_").rpartition("-")
        if name.startswith("denoising_") and dash:
            found.setdefault(kind, [(0.0, "mse")]).append((float(level), name))
    return {kind: sorted(names) for kind, names in found.items()}


def noise_metrics(results: pd.DataFrame) -> list[str]:
    """The errors under corruption, of all kinds at all levels."""
    return [name for levels in noise_levels(results).values() for _, name in levels if name != "mse"]


def loss_ratios(curve: Curve, phase: str = "autoencoder") -> list[tuple[int, float]]:
    """Validation loss ÷ mean training loss since the validation before, with its step, of one phase."""
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
