"""Charts of the report: each function selects results, draws SVG files, and yields figures with captions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from aelab.evaluation.examples import Examples
from aelab.evaluation.metric_names import readable
from aelab.report import charts, floors
from aelab.report.evidence import Entry, Evidence, Line, RateDistortion, loss_ratios, noise_levels
from aelab.report.intervals import interval
from aelab.report.marks import marks
from aelab.report.metrics import METRICS, PLOTTED
from aelab.report.pages import CAPTIONS, Figure
from aelab.report.tables import comparable, heading

SETTLED = 0.2  # Share of a training. The chart of loss ratios leaves out this start, because the losses fall fast.
LEAST = 0.1  # Per cent. The chart of progress draws smaller values as this value, as its caption says.


def _plotted(evidence: Evidence) -> Iterator[tuple[str, str, str | None, list[Entry]]]:
    """Yield every metric that several trained entries define: name, heading, kind of pixels, and these entries.

    The kind of pixels says how a likelihood models a pixel; for other metrics, None.
    """
    for name in PLOTTED:
        found = list(comparable(evidence.trained, name))
        for kind, entries in found:
            if len(entries) > 1:
                yield name, heading(METRICS[name], kind if len(found) > 1 else None), kind, entries


def values(evidence: Evidence, folder: Path, classified: Mapping[str, Mapping[str, float]]) -> Iterator[Figure]:
    """Draw each metric that several entries (model configurations) define: dots for seeds, means with intervals.

    Dashed lines show the floors: baselines without training.

    Args:
        evidence: the entries and the floors.
        folder: the folder for the charts.
        classified: results of the stage `classify`, with the keys `metrics` and `floors`.
    """
    for i, (name, title, kind, entries) in enumerate(_plotted(evidence)):
        path = folder / f"values-{i}-{name}.svg"
        dots = {entry.name: evidence.values(entry, name).tolist() for entry in entries}
        means = {entry.name: evidence.mean(entry, name) for entry in entries}
        lines = {floor.name: mean.mean for floor, mean in evidence.to_beat(name).items()}
        charts.values(
            dots, means, evidence.styles, xlabel=METRICS[name].unit, digits=METRICS[name].digits, path=path,
            floors=lines | floors.of_data(classified, name, kind),
            marked=_marked(evidence),
        )  # fmt: skip
        yield Figure(title, path, "", name)


def differences(evidence: Evidence, folder: Path) -> Iterator[Figure]:
    """Draw the paired differences of all entries to the best entry."""
    for i, (name, title, _, entries) in enumerate(_plotted(evidence)):
        found = evidence.behind(name, entries)
        if found is None:
            continue
        best, gaps = found
        unit = METRICS[name].unit and f" ({METRICS[name].unit})"
        path = folder / f"differences-{i}-{name}.svg"
        named = {entry.name: gap for entry, gap in gaps.items()}
        charts.differences(named, evidence.styles, f"difference to {best.name}{unit}", path, _marked(evidence))
        over = next(gap.over for gap in gaps.values() if gap.known)
        yield Figure(title, path, f"Difference to {best.name}, the best; 95 % interval over {over}.", name)


def _marked(evidence: Evidence) -> set[str]:
    """Return the entries whose names get the sign ⚠."""
    return {entry.name for entry in evidence.entries if marks(entry)}


def noise(evidence: Evidence, folder: Path) -> Iterator[Figure]:
    """Draw each entry's denoising error by level, a chart for each kind of noise."""
    for kind, names in noise_levels(evidence.results).items():
        lines = {
            entry.name: [(level, evidence.mean(entry, name)) for level, name in names]
            for entry in evidence.having(*(name for _, name in names))
        }
        yield from _lines("noise", lines, evidence, folder / f"noise-{kind}.svg", readable(kind).capitalize())


def progress(evidence: Evidence, folder: Path) -> Iterator[Figure]:
    """Draw the remaining fall of each entry's validation loss (see `_way`) by seconds of training."""
    lines = {entry.name: line for entry in evidence.entries if (line := _way(entry))}
    yield from _lines("progress", lines, evidence, folder / "progress.svg")


def _way(entry: Entry) -> Line:
    """Return seconds of training, each with 100·(loss − lowest) ÷ (first loss − lowest), means over the seeds."""
    ways = []
    for curve in entry.curves:
        points = [point for point in curve if point["phase"] == "autoencoder"]
        losses = [(point["seconds"], point["validation_loss"]) for point in points
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
    """Draw distortion against rate, with a chart for each kind of pixels."""
    answering = [entry for entry in evidence.having("rate", "distortion") if entry.pixels]
    for i, pixels in enumerate(dict.fromkeys(entry.pixels for entry in answering)):
        mine = [entry for entry in answering if entry.pixels == pixels]
        points = [_rate_distortion(evidence, entry, mine) for entry in mine]
        path = folder / f"rate_distortion{i or ''}.svg"
        charts.rate_distortion(points, path)
        text = CAPTIONS["rate_distortion"]
        caption = text["caption"]
        if any(each.family is not None for each in points):
            caption += text["families"]
        if any(each.uniform is not None for each in points):
            caption += text["uniform"]
        yield Figure(f"Rate and distortion: {pixels}", path, caption)


def _rate_distortion(evidence: Evidence, entry: Entry, others: Sequence[Entry]) -> RateDistortion:
    """Return an entry's rate and distortion, with the family of all entries that differ from it only in β."""
    seeds = pd.DataFrame({name: evidence.values(entry, name) for name in ("rate", "distortion", "rate_uniform")})
    rate, distortion, uniform = (seeds[name].to_numpy(float) for name in seeds)
    discrete = seeds["rate_uniform"].notna()
    # With a codebook, β weighs the commitment loss, not the rate.
    family = None if discrete.any() or "beta" not in entry.parameters else _but_beta(entry)
    alone = sum(_but_beta(other) == family for other in others) < 2  # noqa: PLR2004 - a line has two ends
    return RateDistortion(
        entry.name, evidence.styles[entry.name], rate, distortion,
        uniform=uniform if discrete.all() else None,
        family=None if alone else family,
        beta=float(entry.parameters.get("beta", 1.0)),
    )  # fmt: skip


def _but_beta(entry: Entry) -> str:
    """Return the parameters of an entry without β, as text."""
    return repr(sorted((key, repr(value)) for key, value in entry.parameters.items() if key != "beta"))


def generalisation(evidence: Evidence, folder: Path) -> Iterator[Figure]:
    """Draw each entry's validation loss ÷ training loss by the finished share of the training."""
    lines = {entry.name: line for entry in evidence.entries if (line := _ratios(entry))}
    yield from _lines("generalisation", lines, evidence, folder / "generalisation.svg")


def _ratios(entry: Entry) -> Line:
    """Return shares of the training from `SETTLED` on, each with the mean loss ratio over the seeds."""
    curves = [dict(loss_ratios(curve)) for curve in entry.curves]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return [
        (step / steps[-1], interval(curve[step] for curve in curves)) for step in steps if step > SETTLED * steps[-1]
    ]


def learning(evidence: Evidence, picked: Mapping[str, Mapping[str, Sequence[int]]], folder: Path) -> Iterator[Figure]:
    """Draw the losses of each entry, by phase.

    Args:
        evidence: the entries.
        picked: by entry and phase, the step with the lowest validation loss of each seed.
        folder: the folder for the charts.
    """
    for entry in evidence.entries:
        for phase, best in picked[entry.name].items():
            curves = [[point for point in curve if point["phase"] == phase] for curve in entry.curves]
            path = folder / entry.name / f"learning_{phase}.svg"
            charts.learning(curves, best, evidence.styles[entry.name], path)
            title = entry.name if phase == "autoencoder" else f"{entry.name}, {phase}"
            yield _figure("learning", path, title)


def code_maps(evidence: Evidence, examples: Mapping[str, Examples], folder: Path) -> Iterator[Figure]:
    """Draw the codes of test images in two dimensions, for each entry's first seed."""
    for entry in evidence.entries:
        if entry.name in examples and (points := examples[entry.name].statistics.get("code_map")) is not None:
            path = folder / entry.name / "code_map.svg"
            charts.code_map(points, path)
            yield Figure(entry.name, path, "")


def code_use(evidence: Evidence, examples: Mapping[str, Examples], folder: Path) -> Iterator[Figure]:
    """Draw how each entry uses its code, for the first seed that finished."""
    for name, each in examples.items():
        style = evidence.styles[name]
        if (nats := each.statistics.get("kl_per_dimension")) is not None:
            path = folder / name / "kl_per_dimension.svg"
            charts.bars(nats.astype(np.float64), ("latent dimensions, largest rate first", "KL (nats)"), style, path)
            yield _figure("kl_per_dimension", path, f"KL of each latent dimension: {name}")
        if (counts := each.statistics.get("code_usage")) is not None:
            path = folder / name / "code_usage.svg"
            shares = 100 * counts.astype(np.float64) / counts.astype(np.float64).sum()
            uniform = ("uniform use", 100 / len(counts))
            charts.bars(shares, ("codes, most used first", "share of positions (%)"), style, path, uniform)
            yield _figure("code_usage", path, f"Use of each code: {name}")


def _lines(key: str, lines: Mapping[str, Line], evidence: Evidence, path: Path, title: str = "") -> Iterator[Figure]:
    """Draw a chart of `lines`, unless there are none."""
    if lines:
        below = [entry.name for entry in evidence.entries if entry.floor]
        charts.lines(lines, evidence.styles, path, **CAPTIONS[key]["axes"], floors=below)
        yield _figure(key, path, title)


def _figure(key: str, path: Path, title: str = "") -> Figure:
    return Figure(title or CAPTIONS[key]["title"], path, CAPTIONS[key]["caption"])
