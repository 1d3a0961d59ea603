"""The results as evidence: the entries, their metrics by seed, and which of them answer a question.

Who answers is found by what an entry is: what it learned from, which metrics it defines; never by its name.
"""

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aelab.report.intervals import Interval, by_seed, difference, interval, leaders
from aelab.report.metrics import metric

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
    floor: bool = False  # whether nothing is trained in it, so that it is shown beside the others and never ranked

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
    def codes(self) -> int:
        """The codes of all its codebooks; 0 where the parameters do not say."""
        if "quantizer.levels" in self.parameters:
            return math.prod(self.parameters["quantizer.levels"])
        return int(self.parameters.get("quantizer.codes", 0)) * int(self.parameters.get("quantizer.depth", 1))


GROUPS: dict[str, Callable[[Entry, bool], bool]] = {  # which entries, with a codebook or without one, a sentence means
    "entries": lambda *_: True,
    "floors": lambda *_: True,  # which are in no other group
    "plain autoencoders": lambda entry, _: entry.plain,
    "entries that learned from clean images": lambda entry, _: entry.clean,
    "entries that learned from corrupted images": lambda entry, _: not entry.clean,
    "denoising autoencoders": lambda entry, _: not entry.clean and entry.pixels is None,
    "variational autoencoders": lambda entry, codebook: entry.pixels is not None and not codebook,
    "autoencoders with a codebook": lambda _, codebook: codebook,
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
        mine = self.by_entry.get(entry.name)
        return pd.Series(dtype=float) if mine is None or name not in mine else mine[name].dropna()

    def term(self, entry: Entry, text: str) -> pd.Series:
        """A term of metrics, as "100 * code_distance", by seed; without the seeds that do not define all of them.

        Beside metrics it may hold `codes`, the entry's, and `final_loss_ratio`: validation ÷ training loss at the end.
        """
        ends = [ratios[-1][1] for curve in entry.curves if (ratios := loss_ratios(curve))]
        known = {"codes": entry.codes or math.nan, "final_loss_ratio": pd.Series(ends, dtype=float)}
        names = re.findall("[a-z_]+", text)
        values = {name: known[name] if name in known else self.values(entry, name) for name in names}
        found: pd.Series = pd.eval(text, local_dict=values, global_dict={})  # type: ignore[assignment]
        return found.dropna()

    def mean(self, entry: Entry, name: str) -> Interval:
        """A metric's mean over the seeds."""
        return interval(self.values(entry, name))

    def having(self, *names: str) -> list[Entry]:
        """The entries that define all of these metrics."""
        return [entry for entry in self.entries if all(len(self.values(entry, name)) for name in names)]

    def group(self, name: str) -> list[Entry]:
        """The entries of one of `GROUPS`."""
        discrete = self.having("codes_used")
        mine = [entry for entry in self.entries if entry.floor == (name == "floors")]
        return [entry for entry in mine if GROUPS[name](entry, entry in discrete)]

    def best(self, entries: Iterable[Entry], name: str) -> Entry:
        """The entry with the best mean of a metric that they all define."""
        sign = 1 if metric(name).better == "lower" else -1
        return min(entries, key=lambda entry: sign * self.mean(entry, name).mean)

    def leaders(self, name: str) -> set[str]:
        """The names of the best entries of all."""
        results = self.trained.results
        return leaders(by_seed(results[results[name].notna()], name), metric(name).better)

    def advantage(self, ours: Sequence[Entry], theirs: Sequence[Entry], name: str) -> tuple[Entry, Entry, Interval]:
        """The best of ours, the best of theirs, and by how much that one is better, seed by seed: as one of all the
        comparisons between ours and theirs, since these two are picked by the same numbers.
        """
        best = self.best(ours, name), self.best(theirs, name)
        pair = [self.values(entry, name) for entry in (best if metric(name).better == "higher" else best[::-1])]
        return *best, difference(pair[0], pair[1], len(ours) * len(theirs))

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
