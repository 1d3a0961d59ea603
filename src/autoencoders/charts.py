"""What the report draws, as SVG with text that stays text: the same data give the same bytes.

rate and distortion   −ELBO = R + D: on the plane of both, bounds that are equal lie on lines of slope −1
                      (Alemi et al. 2018, section 3)

Colours are written as they are for white paper; a page with a dark theme of its own replaces each by `THEMED` name.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from autoencoders.figures import COLOURS, GRID, INK, STYLE
from autoencoders.intervals import Interval

Point: TypeAlias = tuple[float, float]
Curve: TypeAlias = Sequence[Mapping[str, Any]]  # points of one phase: step, time, train_loss or validation_loss
Line: TypeAlias = Sequence[tuple[float, Interval]]  # where, and what was measured there

MARKERS = "osD^vP"  # told apart without colours, too
FAINT, PAPER = "#6b7280", "#ffffff"
THEMED = {INK: "ink", FAINT: "soft", GRID: "line", PAPER: "paper"} | {c: f"c{i}" for i, c in enumerate(COLOURS)}
WIDTH, ROW = 3.5, 0.28  # inches: of a chart, and of one entry in it
BELOW = 0.3  # a row's mean are its seeds, in rows
LABEL = 9  # points from a dot to its label
PLACES = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a label, the first ones first
ALIGNED = {1: "left", 0: "center", -1: "right"}, {1: "bottom", 0: "center", -1: "top"}
LOOK: Any = STYLE | {"svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"]}
DPI = 72  # an SVG's points
CURVE = 10  # points from which on a curve is one


def save(figure: Figure, path: Path) -> None:
    """A chart as a file: its ids are its own, so that many fit into one page; no date, no version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "/".join(path.parts[-2:])}):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(path, bbox_inches="tight", pad_inches=0.05, metadata=metadata)


def values(
    seeds: Mapping[str, Sequence[float]], means: Mapping[str, Interval], styles: Mapping[str, int], *,
    xlabel: str, digits: int, path: Path,
) -> None:  # fmt: skip
    """A metric of several entries in rows: each seed a dot, the mean with its interval and as a number."""
    with mpl.rc_context(LOOK):
        figure, axes = _rows(list(seeds), xlabel)
        for row, (name, each) in enumerate(seeds.items()):
            mean = means[name]
            _interval(axes, row, mean, styles[name])
            axes.scatter(each, [row + BELOW] * len(each), s=7, color=FAINT, linewidths=0, zorder=4)
            axes.annotate(
                f"{mean.mean:,.{digits}f}", (1, row), (4, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", ha="left", color=INK,
            )  # fmt: skip
        save(figure, path)


def differences(gaps: Mapping[str, Interval], styles: Mapping[str, int], xlabel: str, path: Path) -> None:
    """By how much entries differ from another one, each with its interval; hollow where that holds 0."""
    with mpl.rc_context(LOOK):
        figure, axes = _rows(list(gaps), xlabel)
        axes.axvline(0, color=INK, linewidth=1, linestyle="--", zorder=1)
        for row, (name, gap) in enumerate(gaps.items()):
            _interval(axes, row, gap, styles[name], filled=gap.side(0) != 0)
        save(figure, path)


def _rows(names: Sequence[str], xlabel: str) -> tuple[Figure, Axes]:
    """Axes with a row for each entry, the first one above."""
    figure = Figure(figsize=(WIDTH, 0.6 + ROW * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylim=(len(names) - 0.3, -0.6))
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.06)
    return figure, axes


def _interval(axes: Axes, row: int, value: Interval, style: int, *, filled: bool = True) -> None:
    """A mean with the line of its interval, if there is one."""
    colour, marker = _look(style)
    if value.known:
        axes.plot([value.mean - value.half, value.mean + value.half], [row, row], color=colour, linewidth=2.5, zorder=2)
    axes.scatter(
        value.mean, row, s=42, marker=marker, facecolor=colour if filled else PAPER, edgecolor=colour, zorder=3
    )


@dataclass(frozen=True)
class Spent:
    """What an entry spends: nats of rate and of distortion, one for each seed."""

    label: str
    style: int  # the same number has the same colour and marker in every chart
    rate: NDArray[np.float64]
    distortion: NDArray[np.float64]
    uniform: NDArray[np.float64] | None = None  # the rate under the uniform prior, where another is learned
    family: Hashable = None  # entries of one family are joined, in the order of
    beta: float = 1.0

    @property
    def mean(self) -> Point:
        """Over the seeds."""
        return float(self.rate.mean()), float(self.distortion.mean())


def rate_distortion(spent: Sequence[Spent], path: Path) -> None:
    """Every entry's rate and distortion: seeds as small dots, the mean as a large one with its name."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(5.6, 4.2), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=False)
        axes.set(xlabel="rate (nats)", ylabel="distortion (nats)")
        axes.margins(0.14)
        named: list[tuple[str, int, Point]] = []
        joined: list[tuple[Point, Point]] = []
        for each in spent:
            _dots(axes, each.rate, each.distortion, each.style, filled=True)
            named.append((each.label, each.style, each.mean))
            if each.uniform is not None:
                _dots(axes, each.uniform, each.distortion, each.style, filled=False)
                start = float(each.uniform.mean()), each.mean[1]
                named.append((f"{each.label}, uniform prior", each.style, start))
                joined.append((start, each.mean))
                arrow = {"arrowstyle": "->", "color": FAINT, "linewidth": 1, "shrinkA": 4, "shrinkB": 6}
                axes.annotate("", each.mean, start, arrowprops=arrow)
        for family in dict.fromkeys(each.family for each in spent if each.family is not None):
            members = sorted((each for each in spent if each.family == family), key=lambda each: each.beta)
            means = [each.mean for each in members]
            axes.plot(*zip(*means, strict=True), color=FAINT, linewidth=1.2, zorder=2)
            joined += pairwise(means)
        figure.draw_without_rendering()
        dots = [_square(axes, at, 4) for each in spent for at in zip(each.rate, each.distortion, strict=True)]
        _name(axes, named, [*_equal_totals(axes), *_along(axes, joined), *dots])
        save(figure, path)


def _dots(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], style: int, *, filled: bool) -> None:
    """Small dots and a large one at their mean; hollow ones where they are not what is compared."""
    colour, marker = _look(style)
    axes.scatter(x, y, s=9, color=colour, alpha=0.6, linewidths=0, zorder=3)
    axes.scatter(
        x.mean(), y.mean(), s=48, marker=marker, facecolor=colour if filled else PAPER, edgecolor=colour, zorder=4
    )


def _equal_totals(axes: Axes) -> list[Bbox]:
    """Lines of equal rate + distortion behind all else; where their numbers stand, in pixels."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set(xlim=(left, right), ylim=(low, high))
    boxes = []
    for total in MaxNLocator(8).tick_values(left + low, right + high):
        ends = max(left, total - high), min(right, total - low)
        if ends[0] >= ends[1]:
            continue
        axes.plot(ends, [total - x for x in ends], color=GRID, linewidth=1, zorder=1)
        text = axes.annotate(
            f"{total:g}", (ends[0], total - ends[0]), (3, -3), textcoords="offset points", va="top", ha="left",
            fontsize=7, color=FAINT, zorder=1,
        )  # fmt: skip
        box = text.get_window_extent()
        if box.x1 > axes.get_window_extent().x1 or box.y0 < axes.get_window_extent().y0:
            text.remove()
        else:
            boxes.append(box)
    return boxes


def _along(axes: Axes, joined: Sequence[tuple[Point, Point]]) -> list[Bbox]:
    """Small squares along lines, in pixels."""
    return [
        _square(axes, np.add(start, share * np.subtract(end, start)), 2)
        for start, end in joined
        for share in np.linspace(0, 1, 40)
    ]


def _square(axes: Axes, at: Any, side: float) -> Bbox:
    """A square around a point of the axes, in pixels; its side is in points."""
    x, y = axes.transData.transform(at)
    reach = side * DPI / 72
    return Bbox.from_bounds(x - reach / 2, y - reach / 2, reach, reach)


def _name(axes: Axes, named: Sequence[tuple[str, int, Point]], taken: Sequence[Bbox]) -> None:
    """A label at each point: where it covers least of all dots, lines and labels and stays on the axes."""
    occupied = [*taken, *(_square(axes, at, 8) for _, _, at in named)]
    inside = axes.get_window_extent()
    for label, style, at in named:
        tried: list[tuple[float, int, Annotation, Bbox]] = []
        for distance in (LABEL, 2 * LABEL, 3 * LABEL):
            for across, up in PLACES:
                text = axes.annotate(
                    label, at, (across * distance, up * distance), textcoords="offset points",
                    ha=ALIGNED[0][across], va=ALIGNED[1][up], color=_look(style)[0], fontsize=8.5, zorder=5,
                )  # fmt: skip
                box = text.get_window_extent()
                outside = box.width * box.height - _overlap(box, inside)
                tried.append((sum(_overlap(box, other) for other in occupied) + 10 * outside, len(tried), text, box))
        (*_, box), *others = sorted(tried, key=lambda each: each[:2])
        for *_, text, _ in others:
            text.remove()
        occupied.append(box)


def _overlap(one: Bbox, other: Bbox) -> float:
    """The area that both cover."""
    both = Bbox.intersection(one, other)
    return both.width * both.height if both else 0.0


def lines(
    drawn: Mapping[str, Line], styles: Mapping[str, int], xlabel: str, ylabel: str, path: Path, *,
    reference: float | None = None, logarithmic: bool = False,
) -> None:  # fmt: skip
    """Lines of all entries with their intervals; from 0 on where there is no other `reference` to see them against."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = figure.subplots()
        if reference is not None:
            axes.axhline(reference, color=INK, linestyle="--", linewidth=1)
        for name, line in drawn.items():
            _draw(axes, name, line, styles[name])
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if logarithmic:
            axes.set_yscale("log")
        elif reference is None:
            axes.set_ylim(0, None)
        figure.legend(loc="outside lower center", ncols=3, handlelength=1.4, columnspacing=1.2)
        save(figure, path)


def _draw(axes: Axes, name: str, line: Line, style: int) -> None:
    """A line with a band from end to end of its intervals."""
    colour, marker = _look(style)
    x = [where for where, _ in line]
    means = np.array([value.mean for _, value in line])
    halves = np.array([value.half if value.known else 0.0 for _, value in line])
    axes.fill_between(x, means - halves, means + halves, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, means, label=name, color=colour, marker=marker, markersize=4, linewidth=1.4)


def learning(curves: Sequence[Curve], best: Sequence[int], style: int, path: Path) -> None:
    """One phase's training (thin) and validation loss by step, for every seed, and above by seconds of the first one; a
    large dot marks the step whose weights were picked.
    """
    colour, marker = _look(style)
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.subplots()
        for i, (curve, picked) in enumerate(zip(curves, best, strict=True)):
            train, validation = (
                np.array([(point["step"], point[loss]) for point in curve if loss in point]).reshape(-1, 2)
                for loss in ("train_loss", "validation_loss")
            )
            labels = ("training", "validation") if i == 0 else ("_", "_")
            axes.plot(*train.T, color=FAINT, linewidth=0.6, label=labels[0])
            axes.plot(*validation.T, color=colour, linewidth=1.2, marker=marker, markersize=3, label=labels[1])
            axes.plot(*validation[validation[:, 0] == picked].T, marker, color=colour, markersize=7)
        limits = [_without_the_start(curve) for curve in curves]
        axes.set(xlabel="step", ylabel="loss", ylim=(min(low for low, _ in limits), max(high for _, high in limits)))
        _seconds_above(axes, curves[0])
        axes.legend()
        save(figure, path)


def _without_the_start(points: Curve) -> tuple[float, float]:
    """Limits that show the training after its first twentieth: the losses before would flatten all that follows."""
    last = points[-1]["step"]
    losses = [
        value
        for point in points
        for name, value in point.items()
        if name in {"train_loss", "validation_loss"} and (point["step"] > last / 20 or len(points) < CURVE)
    ]
    margin = 0.05 * (max(losses) - min(losses)) or 1.0
    return min(losses) - margin, max(losses) + margin


def _seconds_above(axes: Axes, points: Curve) -> None:
    """A second axis above a panel: how many seconds after the first point each step was reached."""
    steps = np.array([point["step"] for point in points], np.float64)
    seconds = np.array([point["time"] for point in points], np.float64) - points[0]["time"]
    if len(points) < CURVE or seconds[-1] <= 0 or (np.diff(seconds) < 0).any():  # a clock that was set back
        return
    seconds += np.arange(len(seconds)) * 1e-9  # strictly rising, so that it can be inverted
    above = axes.secondary_xaxis(
        "top",
        functions=(
            lambda x: np.interp(np.asarray(x), steps, seconds),
            lambda x: np.interp(np.asarray(x), seconds, steps),
        ),
    )
    above.set_xlabel("seconds")


def bars(
    heights: NDArray[np.float64], labels: tuple[str, str], style: int, path: Path,
    reference: tuple[str, float] | None = None,
) -> None:  # fmt: skip
    """Heights (n,), largest first, beside a named line; `labels` of the axes across and up."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(WIDTH, 2.2), layout="constrained")
        axes = figure.subplots()
        axes.fill_between(
            np.arange(len(heights) + 1) + 0.5, np.append(np.sort(heights)[::-1], 0), step="post",
            color=_look(style)[0], linewidth=0,
        )  # fmt: skip
        if reference:
            axes.axhline(reference[1], color=INK, linestyle="--", linewidth=1, label=reference[0])
            axes.legend()
        axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0.5, len(heights) + 0.5), ylim=(0, None))
        save(figure, path)


def _look(style: int) -> tuple[str, str]:
    """Colour and marker."""
    return COLOURS[style % len(COLOURS)], MARKERS[style % len(MARKERS)]
