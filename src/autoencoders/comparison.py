"""The comparison of all entries: tables of means over the seeds, what differs between them, and the pages."""

import base64
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from autoencoders.intervals import Interval, interval, leaders
from autoencoders.metrics import Metric, metric

PHOTOGRAPH = 64  # pixels along a side from which on images are compressed with loss in the page
GAP = 0.5  # gray between images, seen on white and on black


@dataclass(frozen=True)
class Table:
    """A table of text: entries down, metrics across."""

    title: str  # "" if it goes on with the table before it
    note: str
    header: list[str]
    rows: list[list[str]]  # a best value is between asterisks, as Markdown's bold
    names: Sequence[str] = ()  # of the metrics of all columns but the first


@dataclass(frozen=True)
class Figure:
    """A picture with what it shows."""

    title: str
    path: Path
    caption: str
    metric: str = ""  # that it shows

    @property
    def svg(self) -> Markup:
        """The chart as a part of a page: named for a screen reader, in the colours of the page."""
        from autoencoders.charts import THEMED  # noqa: PLC0415 - matplotlib is slow to import

        text = self.path.read_text(encoding="utf-8")
        text = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style .*?</style>", "", text, flags=re.DOTALL)
        text = re.sub(r'<g id="[^"]*"', "<g", text)
        for colour, name in THEMED.items():
            text = text.replace(colour, f"var(--{name})")
        text = re.sub(r"(font: [^;]*?) 'DejaVu Sans'[^;\"]*", r"\1 var(--font)", text)
        width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2]
        opening = (
            f'<svg class="chart" role="img" aria-label="{escape(self.title)}" viewBox="0 0 {width} {height}" '
            f'style="max-width: {1.5 * float(width):.0f}px">'
        )
        return Markup(re.sub(r"<svg.*?>", lambda _: opening, text, count=1, flags=re.DOTALL).strip())  # noqa: S704 - ours


@dataclass(frozen=True)
class Strip:
    """Images in rows, with the name of whose they are."""

    label: str
    about: str  # what a screen reader says
    images: NDArray[np.uint8]  # (rows, n, C, H, W)

    @property
    def sheet(self) -> Image.Image:
        """All of them on one sheet."""
        rows, count, channels, height, width = self.images.shape
        gap = max(1, height // 14)
        padded = np.pad(
            self.images, ((0, 0), (0, 0), (0, 0), (0, gap), (0, gap)), constant_values=round(255 * GAP)
        ).transpose(0, 3, 1, 4, 2)  # rows, height, n, width, channels
        sheet = padded.reshape(rows * (height + gap), count * (width + gap), channels)[:-gap, :-gap]
        return Image.fromarray(sheet.squeeze(-1) if channels == 1 else sheet)

    @property
    def pixelated(self) -> bool:
        """Whether its pixels are to be seen as squares."""
        return self.images.shape[-2] < PHOTOGRAPH

    @property
    def data_uri(self) -> str:
        """The sheet itself as an address."""
        file, kind = io.BytesIO(), "png" if self.pixelated else "webp"
        self.sheet.save(file, kind, **({"optimize": True} if self.pixelated else {"quality": 80}))
        return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Gallery:
    """Strips of the same images one below the other, or sheets beside each other."""

    title: str
    caption: str
    strips: list[Strip]


@dataclass(frozen=True)
class Section:
    """One entry's part of the report."""

    title: str
    about: str
    seeds: Table | None = None
    links: Mapping[str, str] = field(default_factory=dict)  # by seed: its run
    origin: Mapping[str, str] = field(default_factory=dict)
    parameters: str = ""


def tables(
    title: str, note: str, results: pd.DataFrame, names: Iterable[str], *, say_pixels: bool = True
) -> list[Table]:
    """Means over the seeds with their 95 % intervals, in bold the best of each column and all that tie with it.

    A likelihood has a column for each kind of pixels, since those of different kinds are not comparable. Metrics that
    the same entries define share a table, so that no cell is empty; those of most entries come first.

    Args:
        title: of the first table; the others go on with it.
        note: what to know to read them.
        results: one row per entry and seed that finished, in columns "entry", "seed", "pixels" and metrics; NaN where
            one is undefined.
        names: the metrics to show.
        say_pixels: whether the heading of a likelihood names its pixels.
    """
    defining: dict[tuple[str, ...], list[tuple[str, str, dict[str, str]]]] = {}
    for name in names:
        for head, cells in _columns(results, name, say_pixels) if name in results else ():
            defining.setdefault(tuple(cells), []).append((name, head, cells))
    made = list[Table]()
    for entries, columns in sorted(defining.items(), key=lambda item: -len(item[0])):
        header = ["", *(head for _, head, _ in columns)]
        rows = [[entry, *(cells[entry] for *_, cells in columns)] for entry in entries]
        made.append(Table("" if made else title, "" if made else note, header, rows, [name for name, *_ in columns]))
    return made


def _columns(results: pd.DataFrame, name: str, say_pixels: bool) -> Iterator[tuple[str, dict[str, str]]]:  # noqa: FBT001
    """The columns that show a metric, each with a cell for every entry that defines it."""
    each, defined = metric(name.removeprefix("validation_")), results[results[name].notna()]
    kinds = defined["pixels"].unique() if each.likelihood else [None]
    for kind in kinds:
        values = by_seed(defined if kind is None else defined[defined["pixels"] == kind], name)
        best = leaders(values, each.better)
        cells = {str(entry): cell(interval(values[entry]), each.digits, bold=entry in best) for entry in values}
        if cells:
            yield heading(each, kind if say_pixels else None), cells


def by_seed(results: pd.DataFrame, name: str) -> pd.DataFrame:
    """A metric with a row for each seed and a column for each entry, in their order."""
    entries = list(dict.fromkeys(results["entry"]))
    return results.set_index(["seed", "entry"])[name].unstack()[entries]  # noqa: PD010 - there is nothing to aggregate


def heading(each: Metric, pixels: str | None = None) -> str:
    """A metric's title with the pixels that it is of, its unit and which way is better."""
    return each.title + (f", {pixels}" if pixels else "") + (f" ({each.unit})" if each.unit else "") + each.arrow


def differences(sections: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """What differs between the entries of one model, a column for each such parameter; None if nothing does."""
    flat = {name: dict(flattened(section)) for name, section in sections.items()}
    families: dict[str, list[str]] = {}
    for name, keys in flat.items():
        families.setdefault(str(keys.get("model")), []).append(name)
    columns = [
        key
        for key in dict.fromkeys(key for keys in flat.values() for key in keys)
        if any(len({repr(flat[name].get(key)) for name in family}) > 1 for family in families.values())
    ]
    if not columns:
        return None
    rows = [
        [name, model, *(str(flat[name][key]) if key in flat[name] else "–" for key in columns)]
        for model, family in families.items()
        for name in family
    ]
    note = "The parameters in which entries of one model differ; – where an entry does not have one. All stand below."
    return Table("What differs between the entries", note, ["", "model", *columns], rows)


def flattened(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted keys."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def cell(value: Interval, digits: int, *, bold: bool = False) -> str:
    """`mean ± half its interval`; the mean alone where the seeds agree or there is only one."""
    text = f"{value.mean:,.{digits}f}" + (f" ± {value.half:,.{digits}f}" if value.known and value.half else "")
    return f"**{text}**" if bold else text


def render(name: str, context: Mapping[str, Any]) -> str:
    """The template `name` filled with `context`: no value becomes markup, in HTML or in Markdown."""
    environment = Environment(
        loader=PackageLoader("autoencoders"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        finalize=None if name.endswith(".html.j2") else _no_html,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["verbatim"] = Markup
    environment.filters["coded"] = _coded if name.endswith(".html.j2") else str
    return environment.get_template(name).render(context)


def spreadsheet(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _coded(text: str, entries: Sequence[str] = ()) -> Markup:
    """Markdown's `code` as HTML; the name of one of `entries` leads to it."""
    names = {str(escape(name)) for name in entries}

    def code(found: re.Match[str]) -> str:
        inner = f"<code>{found[1]}</code>"
        return f'<a href="#entry-{found[1]}">{inner}</a>' if found[1] in names else inner

    return Markup(re.sub("`(.*?)`", code, str(escape(text))))  # noqa: S704 - escaped


def _no_html(value: Any) -> Any:
    """Markdown hands HTML on as it is."""
    return value.replace("<", "&lt;") if isinstance(value, str) and not isinstance(value, Markup) else value
