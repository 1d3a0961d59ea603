"""Summary of the results in a few sentences, and the effect of each setting. All text follows from the results."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aelab.evaluation.metric_names import GEOMETRY, REPRESENTATION, SAMPLES
from aelab.report import floors
from aelab.report.evidence import Entry, Evidence, noise_levels, noise_metrics
from aelab.report.intervals import Interval, holm
from aelab.report.metrics import COST, HEADLINE, metric
from aelab.report.tables import flattened, listed, shown

COMPARED = (
    *HEADLINE, "copying_mse", "nll", "rate", "distortion", "active_units", "codes_used", *REPRESENTATION, *GEOMETRY,
    *SAMPLES, "parameters", "train_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """Sentence of the summary about entries (model configurations), with its certainty.

    Attributes:
        text: the sentence, with names in `backticks`.
        certainty: "told" if the best entry differs from all others; "tie" if another entry may be as good; "one seed"
            if there are no intervals; empty if no entries are compared.
        more: further sentences, which have no certainty.
        over: sources of variation that the intervals cover, such as seeds.
    """

    text: str
    certainty: str
    more: str = ""
    over: str = ""

    @property
    def badge(self) -> str:
        """Certainty in words, for the reader."""
        words = {"told": f"at 95 %, over {self.over}", "tie": f"a tie at 95 %, over {self.over}"}
        return words.get(self.certainty, self.certainty)

    @property
    def line(self) -> str:
        """Sentence for a terminal."""
        return f"{self.text} ({self.badge})" if self.badge else self.text


def sentences(
    evidence: Evidence, reference: str, classified: Mapping[str, Mapping[str, float]] | None = None
) -> list[Sentence]:
    """Return sentences about the best entries by MSE, denoising MSE and −ELBO, and about entries without a rank.

    Args:
        evidence: the results.
        reference: the corruption of "denoising MSE", such as "masking 0.5".
        classified: results of the stage `classify`, with the floors of the data set; without them if None.
    """
    below = partial(floors.of_data, classified or {"metrics": {}})
    ranked = evidence.sound
    ill = [entry for entry in evidence.trained.entries if entry not in ranked.entries]
    bounded = ranked.having("neg_elbo")
    kinds = [entry.pixels for entry in bounded]
    comparable = [entry for entry in bounded if entry.pixels == max(kinds, key=kinds.count)]
    asked = (
        (ranked.having("mse"), "mse", "reconstructs best", [_by_size]),
        (ranked.having("denoising_mse"), "denoising_mse", f"restores images best from {reference}",
         [_by_size, _over_all_noise]),
        (comparable, "neg_elbo", "has the lowest −ELBO", [partial(_samples, below("frechet", None))]),
    )  # fmt: skip
    return [
        replace(
            _best(ranked, entries, name, does),
            more=" ".join(
                filter(
                    None,
                    (_floors(evidence, name, below(name, entries[0].pixels)), *(each(ranked, name) for each in more)),
                )
            ),
        )
        for entries, name, does, more in asked
        if entries
    ] + [Sentence(f"`{entry.name}` is not ranked: {entry.symptoms[0]}.", "") for entry in ill]


def _best(evidence: Evidence, entries: Sequence[Entry], name: str, does: str) -> Sentence:
    """Return a sentence about the best of `entries` by a metric, with its lead over the next entry, and a certainty."""
    each = metric(name)
    order = sorted(entries, key=lambda entry: evidence.values(entry, name).mean(), reverse=each.better == "higher")
    first, *others = order
    means = {entry: shown(evidence.mean(entry, name), name) for entry in order}
    if not others:
        only = f"`{first.name}` is the only entry that is ranked by {each.title}: {means[first]}"
        return Sentence(f"{only}{_with(first)}.", "")
    found = evidence.behind(name, entries)
    first, gaps = found or (first, {})
    best = f"`{first.name}` {does}: {means[first] if each.title in does else f'{each.title} {means[first]}'}"
    if not found:
        return Sentence(f"{best}{_compared(first, others[0], f'`{others[0].name}` ({means[others[0]]})')}.", "one seed")
    over = next(gap.over for gap in gaps.values() if gap.known)
    tied = [entry for entry, gap in gaps.items() if gap.known and gap.side(0) == 0]
    behind = next((entry for entry in order if entry in gaps and gaps[entry].side(0)), None)
    after = ""
    if behind:
        after = f"`{behind.name}`, {shown(Interval(abs(gaps[behind].mean), gaps[behind].half), name)} behind"
    if not tied and behind:
        return Sentence(f"{best}{_compared(first, behind, after)}.", "told", over=over)
    near = listed(f"`{entry.name}` ({means[entry]}{_with(entry)})" for entry in order if entry in tied)
    rest = f"; next is {after}{_with(behind)}" if behind else ""
    text = f"The data do not tell which entry {does}: `{first.name}` has {each.title} {means[first]}{_with(first)}, and"
    return Sentence(f"{text} {near} may be as good{rest}.", "tie", over=over)


def _compared(first: Entry, second: Entry, text: str) -> str:
    """Return the end of a sentence about the first entry: the second entry as `text`, and the code sizes of both."""
    if _with(first) == _with(second):
        return f"; next is {text}" + _with(first).replace(", with ", ", both with ")
    return f"{_with(first)}; next is {text}{_with(second)}"


def _with(entry: Entry) -> str:
    """Return the size of an entry's code, and how often its training saw each image, as the end of a phrase."""
    size, _, bits = entry.code_size.partition(": ")
    looks = "" if math.isnan(entry.looks) else f" at {entry.looks:.1f} looks per image"
    return f", with {size}{f' ({bits})' if bits else ''}{looks}" if size else ""


def _by_size(evidence: Evidence, name: str) -> str:
    """Return a sentence about the best entries of each code size; empty if the two best entries have the same size."""
    entries = sorted(evidence.having(name), key=lambda entry: evidence.values(entry, name).mean())  # lowest error first
    if len({entry.code_size for entry in entries[:2]}) == 1:
        return ""
    sizes, told = dict[str, list[Entry]](), list[str]()
    for entry in entries:
        sizes.setdefault(entry.code_size, []).append(entry)
    for size, entries in sizes.items():
        leaders = sorted(evidence.leaders(name, entries))
        if leaders:
            names = listed(f"`{each}`" for each in leaders)
            told.append(f"of {len(entries)} entries with {size}, {names} {'is' if len(leaders) == 1 else 'are'} best")
    return f"The codes differ in size{': ' if told else ''}{'; '.join(told)}."


def _floors(evidence: Evidence, name: str, of_data: Mapping[str, float]) -> str:
    """Return a sentence with the floors of a metric: baselines without training, and floors of the data set alone."""
    told = [f"`{floor.name}` ({shown(mean, name)}{_with(floor)})" for floor, mean in evidence.to_beat(name).items()]
    told += [f"{title} ({_number(value, name)})" for title, value in of_data.items()]
    return f"Floors without training: {listed(told)}." if told else ""


def _samples(of_data: Mapping[str, float], evidence: Evidence, _: str) -> str:
    """Return sentences about the samples of the models' own priors, and about samples of fitted densities."""
    found = {name: sorted(evidence.leaders(name)) for name in ("frechet", "sample_precision")}
    if not found["frechet"]:
        return _fitted(evidence, of_data).strip()
    told = {name: listed(f"`{entry}`" for entry in leaders) for name, leaders in found.items() if leaders}
    start = "Of samples from the models' own priors, the best come from"
    if found["sample_precision"] in ([], found["frechet"]):
        by = " and precision" if len(told) > 1 else ""
        return f"{start} {told['frechet']}, by Fréchet distance{by}.{_fitted(evidence, of_data)}"
    either = [entry for entry in evidence.entries if entry.name in {*found["frechet"], *found["sample_precision"]}]
    values = {
        name: listed(f"`{entry.name}` {shown(evidence.mean(entry, name), name)}" for entry in either) for name in told
    }
    return (
        f"{start} {told['frechet']} by Fréchet distance ({values['frechet']}), "
        f"and from {told['sample_precision']} by precision ({values['sample_precision']}).{_fitted(evidence, of_data)}"
    )


def _fitted(evidence: Evidence, of_data: Mapping[str, float]) -> str:
    """Return a sentence that compares the best samples of a fitted density with the best samples of a prior."""
    ours, theirs = evidence.having("frechet_fitted"), evidence.having("frechet")
    text = ""
    if ours and theirs:
        fitted, prior, gain = evidence.advantage(ours, theirs, "frechet_fitted", "frechet")
        nearer = {1: "are nearer to the test images than", -1: "are farther from the test images than"}
        place = nearer.get(gain.side(0), "may be as near as")
        means = [(fitted, "frechet_fitted"), (prior, "frechet")]
        values = listed(shown(evidence.mean(entry, name), name) for entry, name in means)
        text = (
            f" By Fréchet distance, samples of a Gaussian mixture, fitted to the codes of `{fitted.name}` after "
            f"training, {place} samples of the prior of `{prior.name}` ({values})."
        )
    floor = [f" The floor, {title} as samples, is {_number(value, 'frechet')}." for title, value in of_data.items()]
    return text + "".join(floor)


def _number(value: float, name: str) -> str:
    """Return a number without an interval, with the unit and digits of a metric."""
    return shown(Interval(value, math.nan), name)


def _over_all_noise(evidence: Evidence, _: str) -> str:
    """Return a sentence about the entry that most often has the lowest error, over all kinds and levels of noise."""
    names = noise_metrics(evidence.results)
    entries = evidence.having(*names)
    if not names or len(entries) < 2:  # noqa: PLR2004 - a comparison needs two
        return ""
    wins = [evidence.best(entries, name).name for name in names]
    most = max(wins, key=wins.count)
    shared = sum(len(evidence.leaders(name)) > 1 for name, won in zip(names, wins, strict=True) if won == most)
    ties = f" (ties: {shared})" if shared else ""
    count = f"{wins.count(most)} of {len(wins)}"
    return f"`{most}` has the lowest mean error at {count} kinds and levels of noise{ties}."


@dataclass(frozen=True)
class Change:
    """Change of a metric from one entry to another."""

    name: str
    before: Interval
    after: Interval
    gap: Interval  # after − before, paired

    @property
    def reading(self) -> str:
        """Kind of change: better, worse, higher, lower or tie; or the reason why the change is not tested."""
        if self.name in COST:
            return "not tested"
        if not self.gap.known:
            return "one seed: may be chance"
        way = self.gap.side(0)
        if way == 0:
            return "tie"
        moved, wanted = "higher" if way > 0 else "lower", metric(self.name).better
        return moved if wanted is None else "better" if moved == wanted else "worse"


@dataclass(frozen=True)
class Contrast:
    """Comparison of two entries: the parameters that differ, and the changes of the metrics."""

    before: Entry
    after: Entry
    metrics: Sequence[Change]

    @property
    def parameters(self) -> list[tuple[str, Any, Any]]:
        """Each key that differs, with both entries' values. The value of a missing key is None."""
        return changed(self.before.parameters, self.after.parameters)

    @property
    def told(self) -> list[Change]:
        """All changes except ties, including changes that are not tested."""
        return [change for change in self.metrics if change.reading != "tie"]

    @property
    def tied(self) -> list[Change]:
        """Ties: changes that may be chance."""
        return [change for change in self.metrics if change.reading == "tie"]


def contrasts(evidence: Evidence, pairs: Iterable[tuple[Entry, Entry]]) -> list[Contrast]:
    """Compare the entries of each pair by many metrics.

    The metrics include the denoising error at the middle level of each kind of noise. All metrics of a pair are tested
    together, so `holm` widens the intervals of their differences.
    """
    middle = [levels[len(levels) // 2][1] for levels in noise_levels(evidence.results).values()]
    found = []
    for before, after in pairs:
        names = [
            name
            for name in (*COMPARED, *middle)
            if all(len(evidence.values(entry, name)) for entry in (before, after))
            and (not metric(name).likelihood or before.pixels == after.pixels)
        ]
        gaps = holm([evidence.difference(after, before, name) for name in names])
        changes = [
            Change(name, evidence.mean(before, name), evidence.mean(after, name), gap)
            for name, gap in zip(names, gaps, strict=True)
        ]
        found.append(Contrast(before, after, changes))
    return found


def siblings(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Yield pairs (before, after) of entries that differ in one top-level key only.

    For each entry `after`, `before` is the first suitable entry earlier in the list.
    """
    for i, after in enumerate(entries):
        for before in entries[:i]:
            keys = {key.partition(".")[0] for key, *_ in changed(before.parameters, after.parameters)}
            if len(keys) == 1:
                yield before, after
                break


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the keys whose values differ, with both values."""
    before, after = dict(flattened(before)), dict(flattened(after))
    return [
        (key, before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]
