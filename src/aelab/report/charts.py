"""Charts of the report, as SVG files whose text can be selected. Equal data give files with equal bytes.

In the plane of rate R and distortion D, a line of slope −1 has a constant −ELBO = R + D (Alemi et al. 2018, section 3).
"""

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from aelab.evaluation.figures import STYLE, scatter
from aelab.evaluation.palette import COLOURS, FAINT, GRID, INK, MARKERS, PAPER
from aelab.report.evidence import Curve, Line, RateDistortion
from aelab.report.intervals import Interval

# Lines of the same colour differ in their dashes. "--" is only for reference lines.
DASHES = ("-", "-.", ":")
WIDTH, ROW = 3.5, 0.28  # Inches: width of a chart, height of the row of an entry (a model configuration).
BELOW = 0.3  # Distance from an entry's mean down to the dots of its seeds, as a share of a row's height.
BESIDE, BELOW_ROWS = 24, 34  # Characters per line: in an entry's name, and in the label of the x axis.
LONG = 20  # Characters. If a name is longer, the legend has two columns instead of three.
CURVE = 10  # Points. Only for longer curves, the y axis ignores the first losses, and the chart has an axis of seconds.
ABOVE = 0.6  # Height of the name of a floor (a baseline without training), as a share of a row's height.


def save(figure: Figure, path: Path) -> None:
    """Write a chart to an SVG file, without date and version.

    One page contains all charts, so the ids in the file must differ from the ids of other charts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "/".join(path.parts[-2:])}):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(path, bbox_inches="tight", pad_inches=0.05, metadata=metadata)


@contextmanager
def _chart(path: Path, height: float, width: float = WIDTH) -> Iterator[Axes]:
    """Yield the axes of a new chart, with height and width in inches, and save the chart."""
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots()
        save(figure, path)


def values(
    seeds: Mapping[str, Sequence[float]], means: Mapping[str, Interval], styles: Mapping[str, int], *,
    xlabel: str, digits: int, path: Path, floors: Mapping[str, float] = MappingProxyType({}),
    marked: Collection[str] = (),
) -> None:  # fmt: skip
    """Draw the values of a metric, with a row for each entry.

    Each row shows the mean with its interval, the mean as a number, and a small dot for each seed.

    Args:
        seeds: the metric's value for each seed, by entry.
        means: the mean over the seeds, with its interval, by entry.
        styles: for each entry, the index of its colour and marker.
        xlabel: label of the x axis.
        digits: digits after the decimal point.
        path: the SVG file.
        floors: values of the floors, drawn as dashed lines with their names above the rows.
        marked: entries whose names get the sign ⚠.
    """
    with _rows(path, _marked(seeds, marked), xlabel, ABOVE * len(floors)) as axes:
        for row, (name, each) in enumerate(seeds.items()):
            mean = means[name]
            _interval(axes, row, mean, styles[name])
            axes.scatter(each, [row + BELOW] * len(each), s=7, color=FAINT, linewidths=0, zorder=4)
            axes.annotate(
                f"{mean.mean:,.{digits}f}", (1, row), (4, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", ha="left", color=INK,
            )  # fmt: skip
        _floors(axes, {f"{name} {value:,.{digits}f}": value for name, value in floors.items()})


def _floors(axes: Axes, floors: Mapping[str, float]) -> None:
    """Draw each floor as a dashed line with its name. For a value far outside the axes, draw a name and an arrow."""
    (left, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    for place, (name, value) in enumerate(sorted(floors.items(), key=itemgetter(1))):
        y = -0.6 - ABOVE * (place + 0.5)
        near = left - (right - left) < value < right + (right - left)
        text, x, ha = (name, value, "center") if near else (f"← {name}", left, "left")
        if value > right and not near:
            text, x, ha = f"{name} →", right, "right"
        if near:
            axes.plot([value, value], [bottom, y], "--", color=FAINT, linewidth=1, zorder=1)
        axes.text(
            x, y, text, va="center", ha=ha, color=INK, fontsize=8, zorder=5,
            bbox={"facecolor": PAPER, "linewidth": 0, "pad": 1},
        )  # fmt: skip


def differences(
    gaps: Mapping[str, Interval], styles: Mapping[str, int], xlabel: str, path: Path, marked: Collection[str] = ()
) -> None:
    """Draw the difference of each entry to the best entry, with its interval, in a row of its own.

    The mark is hollow if the interval includes 0, since the difference may then be chance.
    """
    with _rows(path, _marked(gaps, marked), xlabel) as axes:
        axes.axvline(0, color=INK, linewidth=1, linestyle="--", zorder=1)
        for row, (name, gap) in enumerate(gaps.items()):
            _interval(axes, row, gap, styles[name], filled=gap.side(0) != 0)


def _marked(names: Iterable[str], marked: Collection[str]) -> list[str]:
    return [f"{name} ⚠" if name in marked else name for name in names]


@contextmanager
def _rows(path: Path, names: Sequence[str], xlabel: str, above: float = 0.0) -> Iterator[Axes]:
    """Yield axes with a row for each name, the first name on top. Space for `above` more rows is left at the top."""
    with _chart(path, 0.6 + ROW * (len(names) + above)) as axes:
        axes.set(xlabel=_broken(xlabel, BELOW_ROWS), ylim=(len(names) - 0.3, -0.6 - above))
        axes.set_yticks(range(len(names)), [_broken(name) for name in names])
        axes.grid(visible=False, axis="y")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.06)
        yield axes


def _interval(axes: Axes, row: int, value: Interval, style: int, *, filled: bool = True) -> None:
    """Draw a mean and its interval. The thick part of the line is the interval over test images alone."""
    colour, marker = _look(style)
    if value.known:
        for half, width, alpha in ((value.half, 1.8, 1.0), (min(value.images, value.half), 6.0, 0.4)):
            ends = [value.mean - half, value.mean + half]
            axes.plot(ends, [row, row], color=colour, alpha=alpha, linewidth=width, solid_capstyle="butt", zorder=2)
    axes.scatter(
        value.mean, row, s=42, marker=marker, facecolor=colour if filled else PAPER, edgecolor=colour, zorder=3
    )


def rate_distortion(points: Sequence[RateDistortion], path: Path) -> None:
    """Draw distortion against rate, with a small dot for each seed and a large dot for each entry's mean."""
    with _chart(path, 4.6, 5.6) as axes:
        axes.grid(visible=False)
        axes.set(xlabel="rate (nats)", ylabel="distortion (nats)")
        axes.margins(0.14)
        for each in points:
            _dots(axes, each.rate, each.distortion, each.style, each.label)
            if each.uniform is not None:
                _dots(axes, each.uniform, each.distortion, each.style, None, filled=False)
                arrow = {"arrowstyle": "->", "color": FAINT, "linewidth": 1, "shrinkA": 4, "shrinkB": 6}
                axes.annotate("", each.mean, (float(each.uniform.mean()), each.mean[1]), arrowprops=arrow)
        for family in dict.fromkeys(each.family for each in points if each.family is not None):
            members = sorted((each for each in points if each.family == family), key=lambda each: each.beta)
            axes.plot(*zip(*(each.mean for each in members), strict=True), color=FAINT, linewidth=1.2, zorder=2)
        if any(each.uniform is not None for each in points):
            axes.scatter([], [], s=48, marker="o", facecolor=PAPER, edgecolor=FAINT, label="hollow: uniform prior")
        _equal_sums(axes)
        _names_below(axes)


def _dots(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], style: int, label: str | None, *, filled: bool = True
) -> None:
    """Draw small dots, and a large dot at their mean. If `filled` is false, the large dot is hollow."""
    colour, marker = _look(style)
    face = colour if filled else PAPER
    axes.scatter(x, y, s=9, color=colour, alpha=0.6, linewidths=0, zorder=3)
    axes.scatter(x.mean(), y.mean(), s=48, marker=marker, facecolor=face, edgecolor=colour, zorder=4, label=label)


def _equal_sums(axes: Axes) -> None:
    """Draw lines of equal rate + distortion in the background, with the sum at the upper end of each line."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set(xlim=(left, right), ylim=(low, high))
    for total in MaxNLocator(8).tick_values(left + low, right + high):
        start, end = max(left, total - high), min(right, total - low)
        if start < end:
            axes.plot([start, end], [total - start, total - end], color=GRID, linewidth=1, zorder=1)
            axes.annotate(
                f"{total:g}", (start, total - start), (3, 1), textcoords="offset points", fontsize=7, color=FAINT,
                zorder=1,
            )  # fmt: skip


def lines(
    drawn: Mapping[str, Line], styles: Mapping[str, int], path: Path, *, xlabel: str, ylabel: str,
    reference: float | None = None, logarithmic: bool = False, floors: Sequence[str] = (),
) -> None:  # fmt: skip
    """Draw a line for each entry, with a band that shows the intervals.

    Args:
        drawn: the lines, by entry.
        styles: for each entry, the index of its colour and marker.
        path: the SVG file.
        xlabel: label of the x axis.
        ylabel: label of the y axis.
        reference: y value of a dashed horizontal line. If None, there is no such line, and a linear y axis starts at 0.
        logarithmic: whether the y axis is logarithmic.
        floors: entries that are floors, drawn in gray, dash-dotted or dotted, without a band.
    """
    with _chart(path, 3.0) as axes:
        if reference is not None:
            axes.axhline(reference, color=INK, linestyle="--", linewidth=1)
        for name, line in drawn.items():
            if name in floors:
                x, means = zip(*((where, value.mean) for where, value in line), strict=True)
                axes.plot(x, means, DASHES[1 + list(floors).index(name) % 2], label=name, color=FAINT, linewidth=1.4)
            else:
                _draw(axes, name, line, styles[name])
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if logarithmic:
            axes.set_yscale("log")
        elif reference is None:
            axes.set_ylim(0, None)
        _names_below(axes)


def _names_below(axes: Axes) -> None:
    """Add a legend below the axes."""
    handles, names = axes.get_legend_handles_labels()
    labels, columns = [_broken(name) for name in names], 2 if any(len(name) > LONG for name in names) else 3
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.2, columnspacing=1.2)


def _broken(text: str, width: int = BESIDE) -> str:
    """Break the text at spaces into lines of at most `width` characters. Longer words stay whole."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _draw(axes: Axes, name: str, line: Line, style: int) -> None:
    """Draw a line, and a band between the ends of its intervals."""
    colour, marker = _look(style)
    x = [where for where, _ in line]
    means = np.array([value.mean for _, value in line])
    halves = np.array([value.half if value.known else 0.0 for _, value in line])
    axes.fill_between(x, means - halves, means + halves, color=colour, alpha=0.15, linewidth=0)
    dashes = DASHES[style // 6 % len(DASHES)]
    axes.plot(x, means, dashes, label=name, color=colour, marker=marker, markersize=4, linewidth=1.4)


def learning(curves: Sequence[Curve], best: Sequence[int], style: int, path: Path) -> None:
    """Draw the training losses (thin line) and the validation losses of one phase of the training, by step.

    Args:
        curves: the points of the phase, a curve for each seed. The upper axis shows the seconds of the first seed.
        best: the step with the lowest validation loss, for each seed. A large mark shows the loss at this step.
        style: index of the entry's colour and marker.
        path: the SVG file.
    """
    colour, marker = _look(style)
    with _chart(path, 2.6) as axes:
        for i, (curve, picked) in enumerate(zip(curves, best, strict=True)):
            train, validation = (
                np.array([(point["step"], point[loss]) for point in curve if loss in point]).reshape(-1, 2)
                for loss in ("train_loss", "validation_loss")
            )
            labels = ("training", "validation") if i == 0 else ("_", "_")
            axes.plot(*train.T, color=FAINT, linewidth=0.6, label=labels[0])
            axes.plot(*validation.T, color=colour, linewidth=1.2, marker=marker, markersize=3, label=labels[1])
            axes.plot(*validation[validation[:, 0] == picked].T, marker, color=colour, markersize=7)
        limits = [_limits(curve) for curve in curves]
        axes.set(xlabel="step", ylabel="loss", ylim=(min(low for low, _ in limits), max(high for _, high in limits)))
        _seconds_above(axes, curves[0])
        axes.legend()


def _limits(points: Curve) -> tuple[float, float]:
    """Return y limits that show all validation losses and the lowest 98 % of the training losses.

    The first 5 % of the steps are left out. High losses at the start, or a spike in one step, would flatten the rest of
    the curve. For a short curve, the limits show all losses.
    """
    short, last = len(points) < CURVE, points[-1]["step"]
    training, validation = (
        [point[loss] for point in points if loss in point and (short or point["step"] > last / 20)]
        for loss in ("train_loss", "validation_loss")
    )
    kept = len(training) if short else int(0.98 * (len(training) - 1)) + 1
    losses = [*validation, *sorted(training)[:kept]]
    margin = 0.05 * (max(losses) - min(losses)) or 1.0
    return min(losses) - margin, max(losses) + margin


def _seconds_above(axes: Axes, points: Curve) -> None:
    """Add an upper axis: seconds of training at each step."""
    if len(points) < CURVE:
        return
    steps, seconds = np.array([(0, 0), *((point["step"], point["seconds"]) for point in points)], np.float64).T
    seconds += np.arange(len(seconds)) * 1e-9  # the inverse function needs strictly rising values
    above = axes.secondary_xaxis(
        "top",
        functions=(
            lambda x: np.interp(np.asarray(x), steps, seconds),
            lambda x: np.interp(np.asarray(x), seconds, steps),
        ),
    )
    above.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))
    above.set_xlabel("seconds of training")


def bars(
    heights: NDArray[np.float64], labels: tuple[str, str], style: int, path: Path,
    reference: tuple[str, float] | None = None,
) -> None:  # fmt: skip
    """Draw heights (n,) as bars, largest first. `reference` is the label and height of a dashed horizontal line."""
    with _chart(path, 2.2) as axes:
        axes.fill_between(
            np.arange(len(heights) + 1) + 0.5, np.append(np.sort(heights)[::-1], 0), step="post",
            color=_look(style)[0], linewidth=0,
        )  # fmt: skip
        if reference:
            axes.axhline(reference[1], color=INK, linestyle="--", linewidth=1, label=reference[0])
            axes.legend()
        axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0.5, len(heights) + 0.5), ylim=(0, None))


def code_map(points: NDArray[np.float32], path: Path) -> None:
    """Draw codes in two dimensions. Each row of `points` (n, 3) has x, y and the class of an image."""
    with _chart(path, 3.9) as axes:
        scatter(axes, points, loc="outside lower center", ncols=6)


def _look(style: int) -> tuple[str, str]:
    """Return colour and marker of a style. The first 12 styles differ in both, the first 144 in at least one."""
    return COLOURS[style % len(COLOURS)], MARKERS[(style + style // len(MARKERS)) % len(MARKERS)]
