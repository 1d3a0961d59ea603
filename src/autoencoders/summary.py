"""What the results say in a few sentences, and what each setting changed: nothing that the data do not hold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoencoders import metrics
from autoencoders.claims import noises
from autoencoders.comparison import by_seed, flattened
from autoencoders.evidence import Entry, Evidence, listed, shown
from autoencoders.intervals import Interval, difference, interval, leaders
from autoencoders.metrics import metric

COMPARED = (
    *metrics.HEADLINE, "copying_mse", "nll", "rate", "distortion", "active_units", "codes_used",
    *metrics.REPRESENTATION, *metrics.GEOMETRY, *metrics.SAMPLES, "parameters", "train_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """What the results say, and whether it is certain."""

    text: str  # names in `backticks`
    certainty: str  # "certain" at 95 %, "tie" or "one seed"; "" where nothing is compared


def sentences(evidence: Evidence, reference: str) -> list[Sentence]:
    """Who reconstructs, who denoises and who explains the images best, and how certain that is.

    Args:
        evidence: the results.
        reference: the corruption of "denoising MSE", in words.
    """
    restores = best(
        evidence, evidence.having("denoising_mse"), "denoising_mse", f"restores images best from {reference}"
    )
    said = [
        best(evidence, evidence.having("mse"), "mse", "reconstructs best"),
        restores and Sentence(restores.text + _over_all_noise(evidence), restores.certainty),
        _likelihood(evidence),
    ]
    return [Sentence(f"{each.text}.", each.certainty) for each in said if each]


def best(evidence: Evidence, entries: Sequence[Entry], name: str, does: str) -> Sentence | None:
    """The best of `entries` by a metric that they all define, with what tells it from the next; None without any."""
    if not entries:
        return None
    names = [entry.name for entry in entries]
    results = evidence.results[evidence.results["entry"].isin(names)]
    values, each = by_seed(results[results[name].notna()], name), metric(name)
    order = list(values.mean().sort_values(ascending=each.better == "lower").index)
    first, lead = order[0], leaders(values, each.better)
    cited = {entry: f"`{entry}` ({shown(interval(values[entry]), name)})" for entry in order}
    value = f"{each.title} {shown(interval(values[first]), name)}"
    if len(order) == 1:
        return Sentence(f"`{first}` is the only entry with a {each.title}: {shown(interval(values[first]), name)}", "")
    if not lead:
        return Sentence(f"`{first}` {does}: {value}; next is {cited[order[1]]}", "one seed")
    behind = [entry for entry in order if entry not in lead]
    gap = shown(_size(difference(values[behind[0]], values[first])), name) if behind else ""
    if len(lead) == 1:
        return Sentence(f"`{first}` {does}: {value}; next is `{behind[0]}`, {gap} behind, seed by seed", "certain")
    tied = listed(cited[entry] for entry in order if entry in lead)
    rest = f"; next is `{behind[0]}`, {gap} behind `{first}`" if behind else ""
    return Sentence(f"Who {does} cannot be told: by {each.title} {tied} tie{rest}", "tie")


def _size(gap: Interval) -> Interval:
    return Interval(abs(gap.mean), gap.half)


def _over_all_noise(evidence: Evidence) -> str:
    """Which entry has the least error at the most levels of all kinds of noise."""
    names = [name for levels in noises(evidence.results).values() for _, name in levels if name != "mse"]
    entries = evidence.having(*names)
    if not names or len(entries) < 2:  # noqa: PLR2004 - nobody to compare with
        return ""
    wins = [evidence.best(entries, name).name for name in names]
    most = max(wins, key=wins.count)
    return f"; over all kinds and levels of noise `{most}` has the least error at {wins.count(most)} of {len(wins)}"


def _likelihood(evidence: Evidence) -> Sentence | None:
    """Of the kind of pixels that most entries share; and whose samples are nearest to the images."""
    defined = evidence.having("neg_elbo")
    kinds = [entry.pixels for entry in defined]
    mine = [entry for entry in defined if entry.pixels == max(kinds, key=kinds.count)]
    said = best(evidence, mine, "neg_elbo", "explains the images best")
    nearest = sorted(evidence.leaders("frechet")) if evidence.having("frechet") else []
    if said is None or not nearest:
        return said
    whose = listed(f"`{name}`" for name in nearest)
    return Sentence(f"{said.text}; by Fréchet distance the best samples are those of {whose}", said.certainty)


@dataclass(frozen=True)
class Change:
    """A metric of two entries."""

    name: str
    before: Interval
    after: Interval
    gap: Interval  # after − before, seed by seed

    @property
    def reading(self) -> str:
        """What the difference amounts to."""
        if not self.gap.known:
            return "one seed: may be chance"
        way = self.gap.side(0)
        if way == 0:
            return "tie"
        moved, wanted = "higher" if way > 0 else "lower", metric(self.name).better
        return moved if wanted is None else "better" if moved == wanted else "worse"


@dataclass(frozen=True)
class Contrast:
    """Two entries, what differs in their parameters, and in their metrics."""

    before: str
    after: str
    parameters: list[tuple[str, Any, Any]]  # key, and its value in each; None where there is none
    metrics: list[Change]

    @property
    def told(self) -> list[Change]:
        """Where the two differ, or where nobody can know."""
        return [change for change in self.metrics if change.reading != "tie"]

    @property
    def tied(self) -> list[Change]:
        """Where they may as well be equal."""
        return [change for change in self.metrics if change.reading == "tie"]


def contrasts(evidence: Evidence, pairs: Iterable[tuple[Entry, Entry]]) -> list[Contrast]:
    """What became different from the first to the second entry of each pair."""
    return [_contrast(evidence, before, after) for before, after in pairs]


def siblings(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Each entry with the first one before it from which it differs under one key alone."""
    for i, after in enumerate(entries):
        for before in entries[:i]:
            keys = {key.partition(".")[0] for key, *_ in changed(before.parameters, after.parameters)}
            if len(keys) == 1:
                yield before, after
                break


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The keys whose values differ, with both values."""
    before, after = dict(flattened(before)), dict(flattened(after))
    return [
        (key, before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def _contrast(evidence: Evidence, before: Entry, after: Entry) -> Contrast:
    changes = []
    for name in COMPARED:
        first, second = evidence.values(before, name), evidence.values(after, name)
        comparable = not metric(name).likelihood or before.pixels == after.pixels
        if len(first) and len(second) and comparable:
            changes.append(Change(name, interval(first), interval(second), difference(second, first)))
    return Contrast(before.name, after.name, changed(before.parameters, after.parameters), changes)
