"""Verdicts on claims about autoencoders. `claims.toml` has the claims and explains their fields.

An entry is a model configuration in `params.yaml`. A claim has tests, which compare results of entries and yield
findings. A finding compares a measured value with a threshold, and the value's 95 % interval decides:

    supported      the whole interval is on the side of the threshold that the claim expects
    contradicted   the whole interval is on the other side
    undecided      the interval includes the threshold

If a claim has several findings, Holm's method (1979) widens their intervals. If even PCA or the identity would pass a
threshold, the threshold is too easy. `claims.toml` then gives the claim a `Duel` instead, which compares two groups of
entries.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import numpy as np

from aelab.report.evidence import Entry, Evidence
from aelab.report.intervals import SEEDS, Interval, holm
from aelab.report.metrics import metric
from aelab.report.tables import cell, listed, shown

ABOVE, BELOW = 1, -1  # the side of the threshold on which the claim expects the value
QUANTILE = 1.96  # of the normal distribution, for a 95 % interval of a mean of many Monte Carlo samples


class Verdict(StrEnum):
    """Verdict on a claim or on one of its findings."""

    SUPPORTED = "supported"
    IN_PART = "supported in part"  # some findings support the claim, and the rest are undecided
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    MIXED = "mixed"  # some findings support the claim, and some contradict it
    UNTESTED = "not tested here"  # the report's entries cannot test the claim


@dataclass(frozen=True)
class Finding:
    """Finding of a test: a measured value, and the side of a threshold on which the claim expects the value.

    A note is a finding that has no verdict in the report, such as the value of a premise, or the reason why a test is
    impossible. A note does not change the claim's verdict.

    Attributes:
        says: function that returns the finding's sentence for a value with its interval.
        value: the measured value with its interval.
        threshold: the limit that the value is compared with.
        side: the side of the threshold that the claim expects, `ABOVE` or `BELOW`.
        verdict: the verdict on this finding alone; None for a note and for a finding that `judged` has not judged.
    """

    says: Callable[[Interval], str]
    value: Interval = Interval(math.nan, math.nan)  # noqa: RUF009 - frozen
    threshold: float = 0.0
    side: int = ABOVE
    verdict: Verdict | None = None

    @property
    def text(self) -> str:
        """Sentence of the finding, with the interval that decides the verdict."""
        return self.says(self.value)

    def judged(self, value: Interval) -> "Finding":
        """Return a copy of the finding with `value`, whose interval may be wider than before, and with the verdict."""
        side = value.side(self.threshold)
        verdict = {0: Verdict.UNDECIDED, self.side: Verdict.SUPPORTED, -self.side: Verdict.CONTRADICTED}[side]
        return replace(self, value=value, verdict=verdict)


@dataclass(frozen=True)
class Threshold:
    """Test of single entries: the value of each entry must be above or below a threshold."""

    value: str
    entries: str
    sentence: str
    above: float | None = None
    below: float = math.nan
    like: str = ""
    errors: Sequence[str] = ()

    def findings(self, evidence: Evidence) -> Iterator[Finding]:
        """Yield a finding for each entry of the group `entries` that has all metrics of the expression `value`."""
        threshold, side = (self.below, BELOW) if self.above is None else (self.above, ABOVE)
        for entry in evidence.group(self.entries):
            if len(evidence.term(entry, self.value)):
                value = self._widened(evidence.mean_term(entry, self.value), evidence, entry)
                yield Finding(partial(self._text, evidence, entry), value, threshold, side)

    def _widened(self, value: Interval, evidence: Evidence, entry: Entry) -> Interval:
        """Return `value` with its interval widened by the Monte Carlo error of the metrics in `errors`.

        The function adds the error of one seed, not the smaller error of the mean over seeds, as if all seeds had the
        same error. An interval that covers test images is not widened, because the values of the images already contain
        the error.
        """
        if value.over != SEEDS:
            return value
        squares = [np.square(values).mean() for name in self.errors if len(values := evidence.values(entry, name))]
        noise = math.sqrt(sum(squares))
        return replace(value, half=(value.half if value.known else 0.0) + QUANTILE * noise) if noise else value

    def _text(self, evidence: Evidence, entry: Entry, value: Interval) -> str:
        named = [name for name in map(str, evidence.results) if f"{{{name}}}" in self.sentence]
        fields = {name: shown(evidence.mean(entry, name), name) for name in named if name != "entry"}
        said = shown(value, self.like) if self.like else f"{cell(value, 1)} %"
        return ended(self.sentence.format(entry=entry.name, value=said.replace("-", "−"), **fields), value)


@dataclass(frozen=True)
class Duel:
    """Test of two groups: by each metric, the best entry of `ours` must beat the best entry of `theirs`.

    With `worse`, the worst entry of `ours` must be worse than the worst entry of `theirs`.
    """

    metrics: Sequence[str]  # if empty: denoising errors under the corruptions that `ours` learned from
    ours: str
    theirs: Sequence[str]
    against: Sequence[str] = ()  # the metrics of `theirs`, if they differ from `metrics`
    each: bool = False
    worse: bool = False
    margin: float = 0.0

    def findings(self, evidence: Evidence) -> Iterator[Finding]:
        """Yield a finding for each metric. With `each`, every entry of `ours` has its own finding for each metric."""
        ours, theirs = evidence.group(self.ours), [entry for name in self.theirs for entry in evidence.group(name)]
        names = self.metrics or evidence.learned_noise(ours)
        for side in [[entry] for entry in ours] if self.each else [ours]:
            for name, other in zip(names, self.against or names, strict=True):
                yield from self._finding(evidence, (name, other), side, theirs)

    def _finding(
        self, evidence: Evidence, names: tuple[str, str], ours: Sequence[Entry], theirs: Sequence[Entry]
    ) -> Iterator[Finding]:
        having = [evidence.having(name) for name in names]
        ours, theirs = [each for each in ours if each in having[0]], [each for each in theirs if each in having[1]]
        if not ours or not theirs:
            return
        mine, other, gain = evidence.advantage(ours, theirs, *names, worst=self.worse)
        means = [
            f"{entry.name} {shown(evidence.mean(entry, name), name)}"
            for entry, name in zip((mine, other), names, strict=True)
        ]
        titles = " against ".join(dict.fromkeys(metric(name).title for name in names))

        def text(value: Interval) -> str:
            size = shown(replace(value, mean=abs(value.mean)), names[0])
            said = f"{titles}: {means[0]} against {means[1]}; {'better' if value.mean >= 0 else 'worse'} by {size}"
            return ended(said, value)

        side = BELOW if self.worse else ABOVE
        yield Finding(text, gain, side * self.margin, side)


@dataclass(frozen=True)
class ToldApart:
    """Test whether a part of the model, such as the quantiser, makes a difference between entries.

    The entries differ only in this part. For each metric in `margins`, the entry with the highest mean must exceed
    every other entry by the margin.
    """

    margins: Mapping[str, float]
    entries: str
    part: str

    def findings(self, evidence: Evidence) -> Iterator[Finding]:
        """Yield a finding for each metric and for each entry, except the entry with the highest mean.

        A family is a set of entries that differ only in the part and have equally many codes. Only the largest family
        is tested.
        """
        families: dict[tuple[str, int], list[Entry]] = {}
        for entry in evidence.group(self.entries):
            rest = {key: value for key, value in entry.parameters.items() if not key.startswith(f"{self.part}.")}
            families.setdefault((repr(sorted(rest.items())), entry.codes), []).append(entry)
        family = max(families.values(), key=len, default=[])
        for name, margin in self.margins.items() if len(family) > 1 else ():
            having = [entry for entry in family if entry in evidence.having(name)]
            for other in sorted(having, key=lambda entry: -evidence.mean(entry, name).mean)[1:]:
                first = max(having, key=lambda entry: evidence.mean(entry, name).mean)
                lead = evidence.difference(first, other, name)
                means = listed(f"{entry.name} {shown(evidence.mean(entry, name), name)}" for entry in (first, other))
                yield Finding(partial(self._text, name, means), lead, margin)

    def _text(self, name: str, means: str, value: Interval) -> str:
        return ended(f"{metric(name).title}: {means}; the difference is {shown(value, name)}", value)


Test = Threshold | Duel | ToldApart


@dataclass(frozen=True)
class Claim:
    """A claim and its tests; `claims.toml` explains the fields."""

    key: str
    title: str
    reading: str
    lacking: str
    tests: Sequence[Test]
    recipe: str = ""
    table: Sequence[str] = ()
    entries: str = "entries"
    premise: Threshold | None = None


@dataclass(frozen=True)
class Judgement:
    """A claim with its findings and verdict."""

    claim: Claim
    findings: Sequence[Finding]
    verdict: Verdict


def judge(claim: Claim, evidence: Evidence) -> Judgement:
    """Test a claim, and return its findings and verdict.

    The verdict is "not tested here" if no test yields a finding, or if the claim has a premise that no entry passes.
    """
    premises = [each.judged(each.value) for each in claim.premise.findings(evidence)] if claim.premise else []
    notes = [replace(each, verdict=None) for each in premises]
    met = claim.premise is None or any(each.verdict is Verdict.SUPPORTED for each in premises)
    found = [each for test in claim.tests for each in test.findings(evidence)] if met else []
    if not found:
        where = f"`make recipe NAME={claim.recipe}` tests the claim" if claim.recipe else ""
        text = ". ".join(filter(None, (claim.lacking, where)))
        return Judgement(claim, [*notes, Finding(lambda _: f"{text}.")], Verdict.UNTESTED)
    widened = holm([each.value for each in found], [each.threshold for each in found])
    judged = [each.judged(value) for each, value in zip(found, widened, strict=True)]
    return Judgement(claim, [*notes, *judged], together(each.verdict for each in judged if each.verdict))


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine the verdicts on a claim's findings into the verdict on the claim.

    Undecided findings weaken "supported" to "supported in part", but do not change "contradicted".
    """
    found = set(verdicts)
    if {Verdict.SUPPORTED, Verdict.CONTRADICTED} <= found:
        return Verdict.MIXED
    if Verdict.CONTRADICTED in found:
        return Verdict.CONTRADICTED
    if found == {Verdict.SUPPORTED, Verdict.UNDECIDED}:
        return Verdict.IN_PART
    return found.pop()


def ended(text: str, value: Interval) -> str:
    """Return `text` as a whole sentence. If the value has no interval, the end of the sentence says why."""
    return text + ("." if value.known else "; an interval needs at least two seeds.")
