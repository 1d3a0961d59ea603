"""What the results say in a few sentences, and what each setting changed: nothing that the data do not hold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aelab.evaluation.metric_names import GEOMETRY, REPRESENTATION, SAMPLES
from aelab.report.evidence import Entry, Evidence, noise_levels, noise_metrics
from aelab.report.intervals import Interval, by_seed, difference, interval, leaders
from aelab.report.metrics import HEADLINE, metric
from aelab.report.tables import flattened, listed, shown

COMPARED = (
    *HEADLINE, "copying_mse", "nll", "rate", "distortion", "active_units", "codes_used", *REPRESENTATION, *GEOMETRY,
    *SAMPLES, "parameters", "train_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """What the results say, and whether it is certain."""

    text: str  # names in `backticks`
    certainty: str  # "certain" at 95 %, "tie" or "one seed"; "" where nothing is compared
    more: str = ""  # that is not as certain


def sentences(evidence: Evidence, reference: str) -> list[Sentence]:
    """Who reconstructs, who denoises and who explains the images best, and how certain that is; who is not ranked.

    Args:
        evidence: the results.
        reference: the corruption of "denoising MSE", in words.
    """
    sound = evidence.sound
    ill = [entry for entry in evidence.trained.entries if entry not in sound.entries]
    evidence = sound
    bounded = evidence.having("neg_elbo")
    kinds = [entry.pixels for entry in bounded]
    comparable = [entry for entry in bounded if entry.pixels == max(kinds, key=kinds.count)]
    nearest = [f"`{name}`" for name in sorted(evidence.leaders("frechet"))] if evidence.having("frechet") else []
    samples = f"By Fréchet distance the best samples are those of {listed(nearest)}." if nearest else ""
    asked = (
        (evidence.having("mse"), "mse", "reconstructs best", ""),
        (evidence.having("denoising_mse"), "denoising_mse", f"restores images best from {reference}",
         _over_all_noise(evidence)),
        (comparable, "neg_elbo", "gives the images the highest likelihood", samples),
    )  # fmt: skip
    return [
        Sentence(f"{text}.", certainty, more)
        for entries, name, does, more in asked if entries
        for text, certainty in [_best(evidence, entries, name, does)]
    ] + [Sentence(f"`{entry.name}` is not ranked: {entry.symptoms[0]}.", "") for entry in ill]  # fmt: skip


def _best(evidence: Evidence, entries: Sequence[Entry], name: str, does: str) -> tuple[str, str]:
    """The best of `entries` by a metric that they all define, with what tells it from the next; how certain that is."""
    results = evidence.results[evidence.results["entry"].isin([entry.name for entry in entries])]
    values, each = by_seed(results[results[name].notna()], name), metric(name)
    order = list(values.mean().sort_values(ascending=each.better == "lower").index)
    means = {entry: shown(interval(values[entry]), name) for entry in order}
    first, lead = order[0], leaders(values, each.better)
    if len(order) == 1:
        return f"`{first}` is the only entry that is ranked by {each.title}: {means[first]}", ""
    best = f"`{first}` {does}: {each.title} {means[first]}; next is"
    if not lead:
        return f"{best} `{order[1]}` ({means[order[1]]})", "one seed"
    behind = next((entry for entry in order if entry not in lead), None)
    gap = difference(values[behind], values[first]) if behind else Interval(0.0, 0.0)
    size = shown(Interval(abs(gap.mean), gap.half), name)
    if len(lead) == 1:
        return f"{best} `{behind}`, {size} behind (seed by seed)", "certain"
    tied = listed(f"`{entry}` ({means[entry]})" for entry in order if entry in lead)
    rest = f"; next is `{behind}`, {size} behind `{first}`" if behind else ""
    return f"Who {does} cannot be told: by {each.title} {tied} tie{rest}", "tie"


def _over_all_noise(evidence: Evidence) -> str:
    """Which entry has the least error at the most levels of all kinds of noise."""
    names = noise_metrics(evidence.results)
    entries = evidence.having(*names)
    if not names or len(entries) < 2:  # noqa: PLR2004 - nobody to compare with
        return ""
    wins = [evidence.best(entries, name).name for name in names]
    most = max(wins, key=wins.count)
    shared = sum(most in lead and len(lead) > 1 for lead in map(evidence.leaders, names))
    ties = f", {shared} of them a tie" if shared else ""
    count = f"{wins.count(most)} of {len(wins)}{ties}"
    return f"Over all kinds and levels of noise `{most}` has the least mean error at {count}."


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

    before: Entry
    after: Entry
    metrics: Sequence[Change]

    @property
    def parameters(self) -> list[tuple[str, Any, Any]]:
        """Each key that differs, and its value in both; None where there is none."""
        return changed(self.before.parameters, self.after.parameters)

    @property
    def told(self) -> list[Change]:
        """Where the two differ, or where nobody can know."""
        return [change for change in self.metrics if change.reading != "tie"]

    @property
    def tied(self) -> list[Change]:
        """Where they may as well be equal."""
        return [change for change in self.metrics if change.reading == "tie"]


def contrasts(evidence: Evidence, pairs: Iterable[tuple[Entry, Entry]]) -> list[Contrast]:
    """What became different from the first to the second entry of each pair; of noise at the middle level of a kind."""
    middle = [levels[len(levels) // 2][1] for levels in noise_levels(evidence.results).values()]
    found = []
    for before, after in pairs:
        changes = []
        for name in (*COMPARED, *middle):
            first, second = evidence.values(before, name), evidence.values(after, name)
            comparable = not metric(name).likelihood or before.pixels == after.pixels
            if len(first) and len(second) and comparable:
                changes.append(Change(name, interval(first), interval(second), difference(second, first)))
        found.append(Contrast(before, after, changes))
    return found


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
