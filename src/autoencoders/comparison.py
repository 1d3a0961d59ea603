"""The comparison of all entries: tables of means over the seeds, what differs between them, and the pages."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from autoencoders.intervals import Interval, interval, leaders
from autoencoders.metrics import Metric, metric


@dataclass(frozen=True)
class Table:
    """A table of text: variants down, metrics across."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]  # a best value is between asterisks, as Markdown's bold


@dataclass(frozen=True)
class Figure:
    """A picture with what it shows."""

    title: str
    path: Path
    caption: str

    @property
    def data_uri(self) -> str:
        """The picture itself as an address."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


@dataclass(frozen=True)
class Section:
    """One entry's part of the report."""

    title: str
    about: str
    figures: list[Figure] = field(default_factory=list)


def table(
    title: str, note: str, results: pd.DataFrame, names: Iterable[str], *, say_pixels: bool = True
) -> Table | None:
    """Means over the seeds with their 95 % intervals, in bold the best of each column and all that tie with it.

    A likelihood has a column for each kind of pixels, since those of different kinds are not comparable. What no entry
    defines is left out, and so are entries that define nothing of it; None if there is nothing to show.

    Args:
        title: of the table.
        note: what to know to read it.
        results: one row per entry and seed that finished, in columns "entry", "seed", "pixels" and metrics; NaN where
            one is undefined.
        names: the metrics to show.
        say_pixels: whether the heading of a likelihood names its pixels.
    """
    columns = [column for name in names if name in results for column in _columns(results, name, say_pixels)]
    shown = [entry for entry in dict.fromkeys(results["entry"]) if any(entry in cells for _, cells in columns)]
    rows = [[entry, *(cells.get(entry, "n/a") for _, cells in columns)] for entry in shown]
    return Table(title, note, ["", *(head for head, _ in columns)], rows) if rows else None


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
    return environment.get_template(name).render(context)


def spreadsheet(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _no_html(value: Any) -> Any:
    """Markdown hands HTML on as it is."""
    return value.replace("<", "&lt;") if isinstance(value, str) and not isinstance(value, Markup) else value
