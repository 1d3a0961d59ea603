"""What the report draws of all entries together: the same data give the same bytes.

rate and distortion   −ELBO = R + D: on the plane of both, bounds that are equal lie on lines of slope −1
                      (Alemi et al. 2018, section 3)
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

from autoencoders.figures import COLOURS, GRID, INK, STYLE, save
from autoencoders.intervals import Interval

Point: TypeAlias = tuple[float, float]
Line: TypeAlias = Sequence[tuple[float, Interval]]  # where, and what was measured there

DPI = 120
MARKERS = "os^DvP"  # another one after each turn through the colours
FAINT = "#6b7280"
LABEL = 9  # points from a dot to its label
PLACES = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a label, the first ones first
ALIGNED = {1: "left", 0: "center", -1: "right"}, {1: "bottom", 0: "center", -1: "top"}


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
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 4.6), dpi=DPI, layout="constrained")
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
        x.mean(), y.mean(), s=48, marker=marker, facecolor=colour if filled else "white", edgecolor=colour, zorder=4
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


def errors(panels: Mapping[str, Mapping[str, Line]], styles: Mapping[str, int], ylabel: str, path: Path) -> None:
    """A panel for each kind of noise: every entry's error by level, with its interval."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(panels) + 0.4, 3.6), dpi=DPI, layout="constrained")
        row = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        for axes, (title, lines) in zip(row, panels.items(), strict=True):
            for name, line in lines.items():
                _draw(axes, name, line, styles[name])
            axes.set(title=title, xlabel="level")
        row[0].set(ylabel=ylabel, ylim=(0, None))  # the others share it
        handles, labels = row[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
        save(figure, path)


def ratios(lines: Mapping[str, Line], styles: Mapping[str, int], xlabel: str, ylabel: str, path: Path) -> None:
    """Lines around 1 with their intervals."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 3.4), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        axes.axhline(1, color=INK, linestyle="--", linewidth=1)
        for name, line in lines.items():
            _draw(axes, name, line, styles[name])
        axes.set(xlabel=xlabel, ylabel=ylabel)
        figure.legend(loc="outside right center")
        save(figure, path)


def _draw(axes: Axes, name: str, line: Line, style: int) -> None:
    """A line with a band from end to end of its intervals."""
    colour, marker = _look(style)
    x = [where for where, _ in line]
    means = np.array([value.mean for _, value in line])
    halves = np.array([value.half if value.known else 0.0 for _, value in line])
    axes.fill_between(x, means - halves, means + halves, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, means, label=name, color=colour, marker=marker, markersize=4)


def _look(style: int) -> tuple[str, str]:
    """Colour and marker."""
    return COLOURS[style % len(COLOURS)], MARKERS[style // len(COLOURS) % len(MARKERS)]
