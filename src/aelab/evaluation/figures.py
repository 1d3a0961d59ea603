"""Figures as PNG files. Equal data give equal bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aelab.evaluation.examples import Rows
from aelab.evaluation.palette import ACCENT, COLOURS, FAINT, INK, MARKERS

STYLE = Path(__file__).with_suffix(".mplstyle")


def images(rows: Rows, path: Path, halves: tuple[str, str] | None = None) -> None:
    """Draw labelled rows of images as one sheet.

    Args:
        rows: for each row, a label and images (n, C, H, W) with values in [0, 1].
        path: the PNG file to write.
        halves: titles of the left and the right half of the sheet. With these titles, a gap separates the halves.
    """
    sheet = np.concatenate([_strip(row) for _, row in rows])
    if halves:
        left, right = np.split(sheet, 2, axis=1)
        apart = np.ones((len(sheet), sheet.shape[0] // len(rows) // 4, 3), np.float32)
        sheet = np.concatenate([left, apart, right], axis=1)
    height, width = sheet.shape[:2]
    row_height = height / len(rows)
    inch = 2 * row_height  # pixels in one inch of the figure, so that a row is half an inch high
    with mpl.rc_context({"axes.grid": False}, STYLE):
        figure = Figure(figsize=(width / inch, height / inch), dpi=120)
        axes = figure.add_axes((0, 0, 1, 1))  # the labels are outside the axes, and `save` includes them
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        labelled = [(label, (i + 0.5) * row_height - 0.5) for i, (label, _) in enumerate(rows) if label]
        axes.set_yticks([place for _, place in labelled], [label for label, _ in labelled])
        axes.set_xticks([width / 4, 3 * width / 4] if halves else [], halves or ())
        axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        save(figure, path)


def code_usage(counts: NDArray[np.float32], path: Path) -> None:
    """Draw the percentage of grid positions that use each code of a codebook, the most used code first.

    `counts` says how often each code is used, (K,).
    """
    shares = np.sort(counts.astype(np.float64) / counts.sum(dtype=np.float64))[::-1]
    with _chart(path, "codes, most used first", "share of positions (%)") as axes:
        axes.fill_between(np.arange(1, len(shares) + 1), shares * 100, step="mid", color=ACCENT, alpha=0.8)
        axes.axhline(100 / len(shares), color=INK, linestyle="--", linewidth=1, label="uniform use")
        axes.set(xlim=(1, len(shares)), ylim=(0, None))
        axes.legend()


def kl_per_dimension(nats: NDArray[np.float32], path: Path) -> None:
    """Draw the rate KL(q ‖ p) of each latent dimension, the largest rate first. `nats` has the rates, (d,)."""
    with _chart(path, "latent dimensions, largest rate first", "KL(q ‖ p) (nats)") as axes:
        axes.bar(np.arange(1, len(nats) + 1), np.sort(nats)[::-1], width=0.8, color=ACCENT)
        axes.set(ylim=(0, None))
        axes.grid(visible=False, axis="x")


def code_map(points: NDArray[np.float32], path: Path) -> None:
    """Draw codes as points in the plane. A row of `points` (n, 3) has a code's coordinates and its image's class."""
    with _chart(path, "", "", (5.2, 4.4)) as axes:
        scatter(axes, points, loc="outside right center")


def scatter(axes: Axes, points: NDArray[np.float32], **legend: Any) -> None:
    """Draw points in the plane, with a colour and a marker for each class.

    If there are more classes than colours, all points have the same colour and marker.

    Args:
        axes: the axes in which the function draws.
        points: two coordinates and a class for each point, (n, 3).
        legend: further arguments for matplotlib's `Figure.legend`.
    """
    classes = np.unique(points[:, 2])
    look: dict[str, Any] = {"linestyle": "", "markersize": 4, "markeredgewidth": 0}
    if len(classes) > len(COLOURS):
        axes.plot(*points[:, :2].T, marker="o", color=FAINT, **look)
    else:
        for each, colour, marker in zip(classes, COLOURS, MARKERS, strict=False):
            x, y, _ = points[points[:, 2] == each].T
            axes.plot(x, y, marker=marker, color=colour, label=f"{each:.0f}", **look)
        axes.figure.legend(handletextpad=0.1, columnspacing=1.0, **legend)
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    (x, y), room = (low + high) / 2, 0.53 * (high - low).max()  # square limits give all maps the same size
    axes.set(xlim=(x - room, x + room), ylim=(y - room, y + room), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)


@contextmanager
def _chart(path: Path, xlabel: str, ylabel: str, size: tuple[float, float] = (5.2, 2.8)) -> Iterator[Axes]:
    """Yield the axes of a new figure of `size` inches. At the end of the `with` block, save the figure to `path`."""
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        axes = figure.subplots()
        axes.set(xlabel=xlabel, ylabel=ylabel)
        yield axes
        save(figure, path)


def _strip(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Place images (n, C, H, W) side by side, with white gaps of about H/14 pixels: (H + gap, n·(W + gap), 3)."""
    pixels = row.transpose(0, 2, 3, 1)  # (n, H, W, C)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    gap = max(1, pixels.shape[1] // 14)
    padded = np.pad(pixels, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1.0)
    return np.concatenate(list(padded), axis=1)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file.

    The file does not contain matplotlib's version. With the version, each upgrade of matplotlib would change the bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})
