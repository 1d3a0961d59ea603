"""What a claim is judged by: which entries answer, what the seeds tell of a value or a difference, and how it is said.

A verdict is read off an interval: all of it on the claimed side of a threshold supports the claim, all of it on the
other side contradicts it, and one that holds the threshold decides nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pandas as pd

from autoencoders.charts import Curve
from autoencoders.comparison import by_seed, cell
from autoencoders.intervals import Interval, difference, interval, leaders
from autoencoders.metrics import metric

CLEAN = "clean"  # the `inputs` of an entry that learns from uncorrupted images
ABOVE, BELOW = 1, -1  # on which side of a threshold a claim places a value


class Verdict(StrEnum):
    """What the data say of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    MIXED = "mixed"
    UNMEASURED = "not measured"


@dataclass(frozen=True, eq=False)
class Entry:
    """What is known of an entry beside its metrics."""

    name: str
    pixels: str | None = None  # what a pixel is to its likelihood, if it has one
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of its section in params.yaml, by dotted keys
    noise: Sequence[str] = ()  # the kinds of corruption that it learned from
    curves: Sequence[Curve] = ()  # one for each seed that finished

    @property
    def plain(self) -> bool:
        """Whether it learned to copy clean images by their squared error alone."""
        parts = {name for curve in self.curves for point in curve for name in point if name.startswith("train_")}
        return self.clean and self.pixels is None and parts <= {"train_loss", "train_mse"}

    @property
    def clean(self) -> bool:
        """Whether it learned from clean images."""
        return self.parameters.get("inputs") == CLEAN


@dataclass(frozen=True)
class Evidence:
    """The entries, and one row of metrics for each of their seeds that finished, in columns "entry" and "seed"."""

    entries: Sequence[Entry]
    results: pd.DataFrame

    def values(self, entry: Entry, name: str) -> pd.Series:
        """A metric by seed, without the seeds that do not define it."""
        if name not in self.results:
            return pd.Series(dtype=float)
        mine = self.results[self.results["entry"] == entry.name]
        return mine.set_index("seed")[name].dropna()

    def mean(self, entry: Entry, name: str) -> Interval:
        """A metric's mean over the seeds."""
        return interval(self.values(entry, name))

    def having(self, *names: str) -> list[Entry]:
        """The entries that define all of these metrics."""
        return [entry for entry in self.entries if all(len(self.values(entry, name)) for name in names)]

    def best(self, entries: Iterable[Entry], name: str) -> Entry:
        """The entry with the best mean of a metric that they all define."""
        sign = 1 if metric(name).better == "lower" else -1
        return min(entries, key=lambda entry: sign * self.mean(entry, name).mean)

    def leaders(self, name: str) -> set[str]:
        """The names of the best entries of all."""
        return leaders(by_seed(self.results[self.results[name].notna()], name), metric(name).better)

    def advantage(self, ours: Sequence[Entry], theirs: Sequence[Entry], name: str) -> tuple[Entry, Entry, Interval]:
        """The best of ours, the best of theirs, and by how much that one is better, seed by seed: as one of all the
        comparisons between ours and theirs, since these two are picked by the same numbers.
        """
        best = self.best(ours, name), self.best(theirs, name)
        pair = [self.values(entry, name) for entry in (best if metric(name).better == "higher" else best[::-1])]
        return *best, difference(pair[0], pair[1], len(ours) * len(theirs))

    @property
    def variational(self) -> list[Entry]:
        """Whose code is a distribution over numbers."""
        discrete = {entry.name for entry in self.discrete}
        return [entry for entry in self.having("mse") if entry.pixels and entry.name not in discrete]

    @property
    def discrete(self) -> list[Entry]:
        """Whose code is taken from a codebook."""
        return self.having("codes_used")


@dataclass(frozen=True)
class Finding:
    """One measurement that bears on a claim."""

    verdict: Verdict | None  # None: it helps to read the others
    text: str


@dataclass(frozen=True)
class Claim:
    """A claim with what was found.

    Attributes:
        key: a short name for links.
        title: the claim itself.
        reading: how it is put to the test, thresholds included.
        findings: in the order in which they are read.
        metrics: what its table shows, of the entries that answer.
        answering: these.
        overall: what the findings say together, where that is not simply what all of them say.
    """

    key: str
    title: str
    reading: str
    findings: list[Finding]
    metrics: Sequence[str] = ()
    answering: Sequence[Entry] = ()
    overall: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        """That of all findings where they agree; those that nothing was measured for do not count."""
        return self.overall or together(finding.verdict for finding in self.findings if finding.verdict)

    @property
    def label(self) -> str:
        """The verdict, and whether there was more to measure."""
        partly = self.verdict is not Verdict.UNMEASURED and any(f.verdict is Verdict.UNMEASURED for f in self.findings)
        return f"{self.verdict}, as far as measured" if partly else str(self.verdict)


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """The one that all have that measured something; mixed where they differ."""
    measured = set(verdicts) - {Verdict.UNMEASURED}
    if len(measured) > 1:
        return Verdict.MIXED
    return measured.pop() if measured else Verdict.UNMEASURED


def judge(value: Interval, threshold: float, claimed: int) -> Verdict:
    """Whether a value lies on the claimed side of a threshold, `ABOVE` or `BELOW` it."""
    side = value.side(threshold)
    if side == 0:
        return Verdict.UNDECIDED
    return Verdict.SUPPORTED if side == claimed else Verdict.CONTRADICTED


def unmeasured(reason: str) -> Finding:
    """Nothing to go by, and why, as a sentence without its full stop."""
    return Finding(Verdict.UNMEASURED, f"{reason}.")


def better(evidence: Evidence, name: str, ours: Sequence[Entry], theirs: Sequence[Entry], whose: str) -> Finding:
    """Whether the best of ours is better than the best of theirs; `whose` says who the two are."""
    ours, theirs = ([entry for entry in each if entry in evidence.having(name)] for each in (ours, theirs))
    title = metric(name).title
    if not ours or not theirs:
        return unmeasured(f"{title} is not there for both {whose}")
    mine, other, gain = evidence.advantage(ours, theirs, name)
    verdict = judge(gain, 0, ABOVE)
    says = {Verdict.SUPPORTED: "better by", Verdict.CONTRADICTED: "worse by"}.get(verdict)
    return Finding(
        verdict,
        f"{title}: {mine.name} {shown(evidence.mean(mine, name), name)}, "
        f"{other.name} {shown(evidence.mean(other, name), name)}; {told(gain, name, says)}.",
    )


def told(gain: Interval, name: str, says: str | None) -> str:
    """A difference in words: its size where it has a sign, else that it cannot be told."""
    size = shown(Interval(abs(gain.mean), gain.half), name)
    if says:
        return f"{says} {size}"
    return f"they cannot be told apart ({sure(gain, f'difference {size}')})"


def sure(value: Interval, text: str) -> str:
    """`text`, and where there is no interval the reason."""
    return text if value.known else f"{text}; fewer than two seeds give no interval"


def shown(value: Interval, name: str) -> str:
    """A metric's value as the tables show it, with its unit."""
    each = metric(name)
    return f"{cell(value, each.digits)} {each.unit}".rstrip()


def percent(value: Interval) -> str:
    """A share in percent."""
    return cell(Interval(100 * value.mean, 100 * value.half), 1) + " %"


def above(value: Interval) -> str:
    """By which share something is more or less than something else."""
    return f"{percent(Interval(abs(value.mean), value.half))} {'above' if value.mean >= 0 else 'below'}"


def listed(names: Iterable[object]) -> str:
    """`a, b and c`."""
    *most, last = map(str, names)
    return f"{', '.join(most)} and {last}" if most else last
