"""The comparison of all entries: tables of means over the seeds, what differs between them, and the pages."""

import base64
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

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


def table(title: str, note: str, results: pd.DataFrame, names: Iterable[str], pixels: Iterable[str]) -> Table:
    """Means over the seeds ± their standard deviation, the best of each column in bold.

    Args:
        title: of the table.
        note: what to know to read it.
        results: one row per entry and seed that finished, in columns "entry" and metrics; NaN where one is undefined.
        names: the metrics to show.
        pixels: of the entries' likelihoods: where they differ, no likelihood is best.
    """
    groups = results.groupby("entry", sort=False)
    shown = {name: metric(name.removeprefix("validation_")) for name in names if name in results}
    means, spreads = groups[list(shown)].mean(), groups[list(shown)].std()
    best = {
        name: means[name].min() if each.better == "lower" else means[name].max()
        for name, each in shown.items()
        if each.better and means[name].notna().sum() > 1 and not (each.likelihood and len(set(pixels)) > 1)
    }
    rows = [
        [
            str(entry),
            *(
                cell(
                    means.loc[entry, name],
                    spreads.loc[entry, name],
                    each.digits,
                    bold=means.loc[entry, name] == best.get(name),
                )
                for name, each in shown.items()
            ),
        ]
        for entry in means.index
    ]
    return Table(title, note, ["", *map(heading, shown.values())], rows)


def heading(each: Metric) -> str:
    """A metric's title with its unit and which way is better."""
    return each.title + (f" ({each.unit})" if each.unit else "") + each.arrow


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


def cell(mean: float, spread: float, digits: int, *, bold: bool) -> str:
    """`mean ± spread`, n/a where the metric is undefined; no spread where the seeds agree or there is only one."""
    if math.isnan(mean):
        return "n/a"
    text = f"{mean:,.{digits}f}" + ("" if math.isnan(spread) or spread == 0 else f" ± {spread:.{digits}f}")
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
