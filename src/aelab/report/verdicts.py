"""How a claim of `claims.toml`, where all fields are explained, is tested: what was found, and the verdict on it.

A finding is read off an interval: all of it on the claimed side of a threshold supports the claim, all of it on the
other side contradicts the claim, and an interval that holds the threshold decides nothing. The findings of a claim are
compared at once, so their intervals are widened as Holm 1979 has it. What PCA or doing nothing would pass is no test of
a claim about autoencoders: where a threshold would be passed so, a duel with another entry takes its place.
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

ABOVE, BELOW = 1, -1  # on which side of a threshold a claim places a value
QUANTILE = 1.96  # of the normal distribution: a Monte Carlo error has many samples


class Verdict(StrEnum):
    """What the data say of a claim."""

    SUPPORTED = "supported"
    IN_PART = "supported in part"  # some findings decide nothing
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    MIXED = "mixed"  # findings contradict each other
    UNTESTED = "not tested here"


@dataclass(frozen=True)
class Finding:
    """One measurement that bears on a claim, as `value` lies to `threshold` and `side`; one without a value decides
    nothing, and helps to read the others or says why there is none. `says` puts a value into a sentence.
    """

    says: Callable[[Interval], str]
    value: Interval = Interval(math.nan, math.nan)  # noqa: RUF009 - frozen
    threshold: float = 0.0
    side: int = ABOVE
    verdict: Verdict | None = None

    @property
    def text(self) -> str:
        """What was found, with the interval that the verdict is read off."""
        return self.says(self.value)

    def judged(self, value: Interval) -> "Finding":
        """With the verdict that a value gives, which may have been widened."""
        side = value.side(self.threshold)
        verdict = {0: Verdict.UNDECIDED, self.side: Verdict.SUPPORTED, -self.side: Verdict.CONTRADICTED}[side]
        return replace(self, value=value, verdict=verdict)


@dataclass(frozen=True)
class Threshold:
    """A test of each entry by itself: its value lies on one side of a threshold."""

    value: str
    entries: str
    sentence: str
    above: float | None = None
    below: float = math.nan
    like: str = ""
    errors: Sequence[str] = ()

    def findings(self, evidence: Evidence) -> Iterator[Finding]:
        """One for each entry that has such a value."""
        threshold, side = (self.below, BELOW) if self.above is None else (self.above, ABOVE)
        for entry in evidence.group(self.entries):
            if len(evidence.term(entry, self.value)):
                value = self._widened(evidence.mean_term(entry, self.value), evidence, entry)
                yield Finding(partial(self._text, evidence, entry), value, threshold, side)

    def _widened(self, value: Interval, evidence: Evidence, entry: Entry) -> Interval:
        """By the Monte Carlo error of one seed, as if all shared it; one seed has no interval, but such an error. One
        over images holds it: what is drawn for each image is part of the image's value.
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
    """A test of two groups: by each metric the best entry of the one is better than the best entry of the other."""

    metrics: Sequence[str]  # none: the errors under the noise that entries learned from
    ours: str
    theirs: str
    against: Sequence[str] = ()  # the metrics of theirs, where these are others
    each: bool = False
    worse: bool = False
    margin: float = 0.0

    def findings(self, evidence: Evidence) -> Iterator[Finding]:
        """One for each metric, and for each of ours where each has to be better."""
        ours, theirs = evidence.group(self.ours), evidence.group(self.theirs)
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
        mine, other, gain = evidence.advantage(ours, theirs, *names)
        means = [
            f"{entry.name} {shown(evidence.mean(entry, name), name)}"
            for entry, name in zip((mine, other), names, strict=True)
        ]
        titles = " against ".join(dict.fromkeys(metric(name).title for name in names))

        def text(value: Interval) -> str:
            size = shown(replace(value, mean=abs(value.mean)), names[0])
            said = f"{titles}: {means[0]}, {means[1]}; {'better' if value.mean >= 0 else 'worse'} by {size}"
            return ended(said, value)

        side = BELOW if self.worse else ABOVE
        yield Finding(text, gain, side * self.margin, side)


@dataclass(frozen=True)
class ToldApart:
    """A test of entries that differ in one part alone: by each metric the highest is a margin above each other one."""

    margins: Mapping[str, float]
    entries: str
    part: str

    def findings(self, evidence: Evidence) -> Iterator[Finding]:
        """One for each metric and each other entry, about the largest family of such entries."""
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
        return ended(f"{metric(name).title}: {means}; apart by {shown(value, name)}", value)


Test = Threshold | Duel | ToldApart


@dataclass(frozen=True)
class Claim:
    """A claim, and how it is put to the test."""

    key: str  # for links
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
    """A claim with what was found."""

    claim: Claim
    findings: Sequence[Finding]
    verdict: Verdict


def judge(claim: Claim, evidence: Evidence) -> Judgement:
    """What all findings together say; where there are none, or the premise does not hold, the claim is not tested."""
    premises = [each.judged(each.value) for each in claim.premise.findings(evidence)] if claim.premise else []
    notes = [replace(each, verdict=None) for each in premises]
    met = claim.premise is None or any(each.verdict is Verdict.SUPPORTED for each in premises)
    found = [each for test in claim.tests for each in test.findings(evidence)] if met else []
    if not found:
        where = f"`make recipe NAME={claim.recipe}` tests it" if claim.recipe else ""
        text = "; ".join(filter(None, (claim.lacking, where)))
        return Judgement(claim, [*notes, Finding(lambda _: f"{text}.")], Verdict.UNTESTED)
    widened = holm([each.value for each in found], [each.threshold for each in found])
    judged = [each.judged(value) for each, value in zip(found, widened, strict=True)]
    return Judgement(claim, [*notes, *judged], together(each.verdict for each in judged if each.verdict))


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """What findings say as one: what is undecided takes nothing away from what is contradicted, but something from what
    is supported.
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
    """The sentence of a finding, and the reason where nothing can be told."""
    return text + ("." if value.known else "; fewer than two seeds give no interval.")
