"""How a claim of `claims.toml`, where all fields are explained, is tested: what was found, and the verdict on it.

A verdict is read off an interval: all of it on the claimed side of a threshold supports the claim, all of it on the
other side contradicts the claim, and an interval that holds the threshold decides nothing.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from aelab.report.evidence import Entry, Evidence, noise_metrics
from aelab.report.intervals import Interval, difference, interval
from aelab.report.metrics import metric
from aelab.report.tables import cell, listed, shown

ABOVE, BELOW = 1, -1  # on which side of a threshold a claim places a value
QUANTILE = 1.96  # of the normal distribution: a Monte Carlo error has many samples


class Verdict(StrEnum):
    """What the data say of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    MIXED = "mixed"
    UNMEASURED = "not measured"


@dataclass(frozen=True)
class Finding:
    """One measurement that bears on a claim."""

    verdict: Verdict | None  # None: it helps to read the others
    text: str


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

    def findings(self, evidence: Evidence) -> list[Finding]:
        """One for each entry that has such a value."""
        threshold, side = (self.below, BELOW) if self.above is None else (self.above, ABOVE)
        found = []
        for entry in evidence.group(self.entries):
            if len(values := evidence.term(entry, self.value)):
                value = self._widened(interval(values), evidence, entry)
                found.append(finding(self._text(value, evidence, entry), value, threshold, side))
        return found or [unmeasured(f"Not measured for any of the {self.entries}")]

    def _widened(self, value: Interval, evidence: Evidence, entry: Entry) -> Interval:
        """By the Monte Carlo error of one seed, as if all shared it; one seed has no interval, but such an error."""
        squares = [np.square(values).mean() for name in self.errors if len(values := evidence.values(entry, name))]
        noise = math.sqrt(sum(squares))
        return Interval(value.mean, (value.half if value.known else 0.0) + QUANTILE * noise) if noise else value

    def _text(self, value: Interval, evidence: Evidence, entry: Entry) -> str:
        named = [name for name in map(str, evidence.results) if f"{{{name}}}" in self.sentence]
        fields = {name: shown(evidence.mean(entry, name), name) for name in named if name != "entry"}
        said = shown(value, self.like) if self.like else f"{cell(value, 1)} %"
        return self.sentence.format(entry=entry.name, value=said.replace("-", "−"), **fields)


@dataclass(frozen=True)
class Duel:
    """A test of two groups: by each metric the best entry of the one is better than the best entry of the other."""

    metrics: Sequence[str]  # none: the errors under all kinds and levels of noise
    ours: str
    theirs: str
    each: bool = False

    def findings(self, evidence: Evidence) -> list[Finding]:
        """One for each metric, and for each of ours where each has to be better."""
        missing = [group for group in (self.ours, self.theirs) if not evidence.group(group)]
        if missing:
            return [unmeasured(f"There are no {' and no '.join(missing)}")]
        ours, theirs = evidence.group(self.ours), evidence.group(self.theirs)
        sides = [[entry] for entry in ours] if self.each else [ours]
        names = self.metrics or noise_metrics(evidence.results)
        found = [self._finding(evidence, name, side, theirs) for side in sides for name in names]
        return found or [unmeasured("No images were corrupted")]

    def _finding(self, evidence: Evidence, name: str, ours: Sequence[Entry], theirs: Sequence[Entry]) -> Finding:
        ours, theirs = ([entry for entry in side if entry in evidence.having(name)] for side in (ours, theirs))
        title = metric(name).title
        if not ours or not theirs:
            return unmeasured(f"{title}: not measured for both {self.ours} and {self.theirs}")
        mine, other, gain = evidence.advantage(ours, theirs, name)
        size = shown(Interval(abs(gain.mean), gain.half), name)
        says = {ABOVE: f"better by {size}", BELOW: f"worse by {size}", 0: f"no certain difference ({size})"}
        values = [f"{entry.name} {shown(evidence.mean(entry, name), name)}" for entry in (mine, other)]
        return finding(f"{title}: {values[0]}, {values[1]}; {says[gain.side(0)]}", gain, 0, ABOVE)


@dataclass(frozen=True)
class ToldApart:
    """A test of entries that differ in one part alone: by each metric the highest is certainly above some other."""

    metrics: Sequence[str]
    entries: str
    part: str
    lacking: str

    def findings(self, evidence: Evidence) -> list[Finding]:
        """One for each metric, about the largest family of such entries."""
        families: dict[tuple[str, int], list[Entry]] = {}
        for entry in evidence.group(self.entries):
            rest = {key: value for key, value in entry.parameters.items() if not key.startswith(f"{self.part}.")}
            families.setdefault((repr(sorted(rest.items())), entry.codes), []).append(entry)
        family = max(families.values(), key=len, default=[])
        if len(family) < 2:  # noqa: PLR2004 - it takes two to differ
            return [unmeasured(self.lacking)]
        return [self._finding(evidence, name, family) for name in self.metrics]

    def _finding(self, evidence: Evidence, name: str, family: Sequence[Entry]) -> Finding:
        title = metric(name).title
        if not all(entry in evidence.having(name) for entry in family):
            return unmeasured(f"{title}: not measured for all of {listed(entry.name for entry in family)}")
        first, *others = sorted(family, key=lambda entry: -evidence.mean(entry, name).mean)
        pairs = math.comb(len(family), 2) * len(self.metrics)
        values = {entry: evidence.values(entry, name) for entry in family}
        leads = {other: difference(values[first], values[other], pairs) for other in others}
        ties = [other.name for other, lead in leads.items() if lead.side(0) != ABOVE]
        means = listed(f"{entry.name} {shown(evidence.mean(entry, name), name)}" for entry in (first, *others))
        end = f"{listed(ties)} cannot be told apart from {first.name}" if ties else f"{first.name} is above all others"
        return Finding(Verdict.SUPPORTED if len(ties) < len(others) else Verdict.UNDECIDED, f"{title}: {means}; {end}.")


@dataclass(frozen=True)
class Claim:
    """A claim, and how it is put to the test."""

    key: str  # for links
    title: str
    reading: str
    tests: Sequence[Threshold | Duel | ToldApart]
    table: Sequence[str] = ()
    entries: str = "entries"
    premise: Threshold | None = None
    otherwise: str = ""


@dataclass(frozen=True)
class Judgement:
    """A claim with what was found."""

    claim: Claim
    findings: Sequence[Finding]
    verdict: Verdict

    @property
    def label(self) -> str:
        """The verdict, and whether there was more to measure."""
        partly = self.verdict is not Verdict.UNMEASURED and any(f.verdict is Verdict.UNMEASURED for f in self.findings)
        return f"{self.verdict}, as far as measured" if partly else str(self.verdict)


def judge(claim: Claim, evidence: Evidence) -> Judgement:
    """The verdict that all findings share where they agree; those that nothing was measured for do not count."""
    findings = [finding for test in claim.tests for finding in test.findings(evidence)]
    verdict = together(finding.verdict for finding in findings if finding.verdict)
    if claim.premise is None:
        return Judgement(claim, findings, verdict)
    premises = claim.premise.findings(evidence)
    held = {premise.verdict for premise in premises}
    if held == {Verdict.UNMEASURED}:
        return Judgement(claim, [*premises, *findings], Verdict.UNMEASURED)
    findings = [*(replace(premise, verdict=None) for premise in premises), *findings]
    if verdict is Verdict.SUPPORTED and Verdict.SUPPORTED not in held:
        verdict = Verdict.UNDECIDED
        findings.append(Finding(verdict, f"{claim.otherwise}."))
    return Judgement(claim, findings, verdict)


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """The one that all have that measured something; mixed where they differ."""
    measured = set(verdicts) - {Verdict.UNMEASURED}
    if len(measured) > 1:
        return Verdict.MIXED
    return measured.pop() if measured else Verdict.UNMEASURED


def finding(text: str, value: Interval, threshold: float, side: int) -> Finding:
    """Whether a value lies on the claimed side of a threshold, and the reason where that cannot be known."""
    found = value.side(threshold)
    verdict = {0: Verdict.UNDECIDED, side: Verdict.SUPPORTED, -side: Verdict.CONTRADICTED}[found]
    return Finding(verdict, text + ("." if value.known else "; fewer than two seeds give no interval."))


def unmeasured(reason: str) -> Finding:
    """Nothing to go by, and why, as a sentence without its full stop."""
    return Finding(Verdict.UNMEASURED, f"{reason}.")
