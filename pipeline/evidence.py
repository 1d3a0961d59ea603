"""The results as evidence: the charts of all entries together."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from autoencoders import charts
from autoencoders.charts import Line, Spent
from autoencoders.claims import gap, noises
from autoencoders.comparison import Figure, by_seed, heading
from autoencoders.evidence import Entry, Evidence
from autoencoders.intervals import difference, interval, leaders
from autoencoders.metrics import METRICS, PLOTTED, readable

SETTLED = 0.2  # of a training, from which on its losses are compared: before, they fall too fast
LEAST = 0.1  # per cent of its way that a training is shown to have before it


def _plotted(evidence: Evidence) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Name, heading and values by seed of every metric that several entries define, for each kind of pixels."""
    results = evidence.results
    for name in PLOTTED:
        each, defined = METRICS[name], results[results[name].notna()] if name in results else results[:0]
        kinds = list(defined["pixels"].unique()) if each.likelihood else [None]
        for kind in kinds:
            mine = defined if kind is None else defined[defined["pixels"] == kind]
            if len(set(mine["entry"])) > 1:
                yield name, heading(each, kind if len(kinds) > 1 else None), by_seed(mine, name)


def values(evidence: Evidence, folder: Path) -> Iterator[Figure]:
    """Each metric that several entries define: seeds as dots, means with their intervals."""
    for i, (name, title, seeds) in enumerate(_plotted(evidence)):
        path = folder / f"values-{i}-{name}.svg"
        dots = {str(entry): seeds[entry].dropna().tolist() for entry in seeds}
        means = {entry: interval(each) for entry, each in dots.items()}
        charts.values(dots, means, styles(evidence), xlabel=METRICS[name].unit, digits=METRICS[name].digits, path=path)
        yield Figure(title, path, "", name)


def differences(evidence: Evidence, folder: Path) -> Iterator[Figure]:
    """By how much every entry differs from the best one, seed by seed."""
    for i, (name, title, seeds) in enumerate(_plotted(evidence)):
        each, lead = METRICS[name], leaders(seeds, METRICS[name].better)
        if not lead:
            continue
        means = seeds[sorted(lead)].mean()
        best = str(means.idxmin() if each.better == "lower" else means.idxmax())
        gaps = {str(entry): difference(seeds[entry], seeds[best]) for entry in seeds if entry != best}
        path = folder / f"differences-{i}-{name}.svg"
        charts.differences(gaps, styles(evidence), f"minus that of {best}" + f" ({each.unit})" * bool(each.unit), path)
        yield Figure(title, path, f"Against {best}, the best.", name)


def noise(evidence: Evidence, folder: Path) -> Iterator[Figure]:
    """Every entry's error by level, for each kind of noise."""
    for kind, names in noises(evidence.results).items():
        lines = {
            entry.name: [(level, evidence.mean(entry, name)) for level, name in names]
            for entry in evidence.having(*(name for _, name in names))
        }
        if lines:
            path = folder / f"noise-{kind}.svg"
            charts.lines(lines, styles(evidence), "level of the noise", "MSE to the clean image", path)
            yield Figure(readable(kind).capitalize(), path, "Level 0 is reconstruction; bands are 95 % intervals.")


def progress(evidence: Evidence, folder: Path) -> Iterator[Figure]:
    """How much of its way each entry still has before it, by seconds."""
    lines = {entry.name: line for entry in evidence.entries if (line := _way(entry))}
    if lines:
        path = folder / "progress.svg"
        charts.lines(lines, styles(evidence), "seconds of training", "% of the way left", path, logarithmic=True)
        yield Figure(
            "All entries", path,
            "How much of the fall of its validation loss is still to come: 100 % at the first validation, 0 at "
            f"the best; {LEAST} % or less is drawn as {LEAST}. Losses of different models have units of their own. The "
            "training of a learned prior comes after it.",
        )  # fmt: skip


def _way(entry: Entry) -> Line:
    """Seconds since the beginning, and the share of the fall of the validation loss that is still to come, in %."""
    ways = []
    for curve in entry.curves:
        points = [point for point in curve if point["phase"] == "autoencoder"]
        losses = [(point["time"] - points[0]["time"], point["validation_loss"]) for point in points
                  if "validation_loss" in point]  # fmt: skip
        fall = losses[0][1] - min(loss for _, loss in losses) if losses else 0.0
        if fall > 0:
            best = losses[0][1] - fall
            ways.append([(seconds, max(LEAST, 100 * (loss - best) / fall)) for seconds, loss in losses])
    return [
        (interval(seconds).mean, interval(left))
        for seconds, left in (zip(*points, strict=True) for points in zip(*ways, strict=False))
        if math.isfinite(interval(left).mean)
    ]


def rate_distortion(evidence: Evidence, folder: Path) -> Iterator[Figure]:
    """One figure for each kind of pixels."""
    answering = [entry for entry in evidence.having("rate", "distortion") if entry.pixels]
    for i, pixels in enumerate(dict.fromkeys(entry.pixels for entry in answering)):
        path = folder / f"rate_distortion{i or ''}.svg"
        mine = [entry for entry in answering if entry.pixels == pixels]
        spent = [_spent(evidence, entry, mine) for entry in mine]
        charts.rate_distortion(spent, path)
        yield Figure(
            f"Rate and distortion: {pixels}",
            path,
            "Small dots are seeds, large ones their means. Gray lines join equal sums of both, the −ELBO that they are "
            "marked with: further down and to the left is better."
            + " Dark lines join one model at several β." * any(each.family is not None for each in spent)
            + " An arrow leads from the uniform prior to the learned one."
            * any(each.uniform is not None for each in spent),
        )


def _spent(evidence: Evidence, entry: Entry, others: Sequence[Entry]) -> Spent:
    seeds = pd.DataFrame({name: evidence.values(entry, name) for name in ("rate", "distortion", "rate_uniform")})
    rate, distortion, uniform = (seeds[name].to_numpy(float) for name in seeds)
    # With a codebook β weighs no rate.
    family = None if seeds["rate_uniform"].notna().any() or "beta" not in entry.parameters else _but_beta(entry)
    alone = sum(_but_beta(other) == family for other in others) < 2  # noqa: PLR2004 - a line has two ends
    return Spent(
        entry.name,
        styles(evidence)[entry.name],
        rate,
        distortion,
        uniform if seeds["rate_uniform"].notna().all() else None,
        None if alone else family,
        float(entry.parameters.get("beta", 1.0)),
    )


def _but_beta(entry: Entry) -> str:
    """All parameters but β, as text."""
    return repr(sorted((key, repr(value)) for key, value in entry.parameters.items() if key != "beta"))


def claimed(evidence: Evidence, folder: Path) -> dict[str, list[Figure]]:
    """The figures of the claims, by the claim's key."""
    lines = {entry.name: line for entry in evidence.entries if (line := _gaps(entry))}
    if not lines:
        return {}
    path = folder / "generalisation.svg"
    charts.lines(lines, styles(evidence), "share of the training", "validation ÷ training loss", path, reference=1)
    caption = (
        "Each validation loss over the mean of the training losses since the one before, with 95 % intervals over the "
        "seeds. Training losses are older than the validation, so that the ratio begins below 1; above 1, the entry "
        "does better on what it has seen."
    )
    return {"memory": [Figure("Validation against training loss", path, caption)]}


def _gaps(entry: Entry) -> Line:
    """Validation ÷ training loss by the share of the training that is done."""
    curves = [dict(gap(curve)) for curve in entry.curves]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return [
        (step / steps[-1], interval(curve[step] for curve in curves)) for step in steps if step > SETTLED * steps[-1]
    ]


def styles(evidence: Evidence) -> dict[str, int]:
    """The same look for an entry in all charts."""
    return {entry.name: i for i, entry in enumerate(evidence.entries)}
