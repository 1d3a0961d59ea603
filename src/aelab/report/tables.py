"""Tables of means over the seeds, of what differs between entries, and numbers as they are shown."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aelab.report.intervals import Interval, by_seed, interval, leaders
from aelab.report.metrics import Metric, metric


@dataclass(frozen=True)
class Table:
    """A table of text: entries down, metrics across."""

    title: str  # "" if it goes on with the table before it
    note: str
    header: list[str]
    rows: list[list[str]]  # a best value is between asterisks, as Markdown's bold
    names: Sequence[str] = ()  # of the metrics of all columns but the first
    floors: Sequence[str] = ()  # entries that are not ranked; their rows are the last ones


def tables(
    title: str, note: str, results: pd.DataFrame, names: Iterable[str], *, say_pixels: bool = True
) -> list[Table]:
    """Means over the seeds with their 95 % intervals, in bold the best of each column and all that tie with it.

    A likelihood has a column for each kind of pixels, since those of different kinds are not comparable. Metrics that
    the same entries define share a table, so that no cell is empty; those of most entries come first. Floors
    stand at the end of each table that has a value of theirs, and are not ranked.

    Args:
        title: of the first table; the others go on with it.
        note: what to know to read them.
        results: one row per entry and seed that finished, in columns "entry", "seed", "pixels" and metrics, maybe
            "floor"; NaN where a metric is undefined.
        names: the metrics to show.
        say_pixels: whether the heading of a likelihood names its pixels.
    """
    floors = floors_of(results)
    defining: dict[tuple[str, ...], list[tuple[str, str, dict[str, str]]]] = {}
    for name in names:
        for head, cells in _columns(results, name, say_pixels):
            trained = tuple(entry for entry in cells if entry not in floors)
            defining.setdefault(trained or tuple(cells), []).append((name, head, cells))
    made = list[Table]()
    for entries, columns in sorted(defining.items(), key=lambda item: -len(item[0])):
        header = ["", *(head for _, head, _ in columns)]
        below = [floor for floor in floors if floor not in entries and any(floor in cells for *_, cells in columns)]
        rows = [[entry, *(cells.get(entry, "–") for *_, cells in columns)] for entry in (*entries, *below)]
        first = ("", "") if made else (title, note)
        made.append(Table(*first, header, rows, [name for name, *_ in columns], below))
    return made


def floors_of(results: pd.DataFrame) -> list[str]:
    """The names of the entries that are floors."""
    return list(dict.fromkeys(results.loc[results["floor"], "entry"])) if "floor" in results else []


def _columns(results: pd.DataFrame, name: str, say_pixels: bool) -> Iterator[tuple[str, dict[str, str]]]:  # noqa: FBT001
    """The columns that show a metric, each with a cell for every entry that defines it."""
    each = metric(name.removeprefix("validation_"))
    for kind, values in comparable(results, name):
        best = leaders(values.drop(columns=floors_of(results), errors="ignore"), each.better)
        cells = {str(entry): cell(interval(values[entry]), each.digits, bold=entry in best) for entry in values}
        yield heading(each, kind if say_pixels else None), cells


def comparable(results: pd.DataFrame, name: str) -> Iterator[tuple[str | None, pd.DataFrame]]:
    """A metric by seed, of those entries that can be compared: likelihoods by their kind of pixels, else all (None)."""
    defined = results[results[name].notna()] if name in results else results[:0]
    if metric(name.removeprefix("validation_")).likelihood:
        yield from ((str(kind), by_seed(mine, name)) for kind, mine in defined.groupby("pixels", sort=False))
    elif len(defined):
        yield None, by_seed(defined, name)


def heading(each: Metric, pixels: str | None = None) -> str:
    """A metric's title with the pixels that it is of, its unit and which way is better."""
    return each.title + (f", {pixels}" if pixels else "") + (f" ({each.unit})" if each.unit else "") + each.arrow


def differences(sections: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """What differs between the entries of one model, a column for each such parameter; None if nothing does."""
    texts = {name: {key: str(value) for key, value in flattened(each)} for name, each in sections.items()}
    frame = pd.DataFrame.from_dict(texts, orient="index").fillna("–")
    families = [family for _, family in frame.groupby("model", sort=False)]
    columns = [str(key) for key in frame if any(len(set(family[key])) > 1 for family in families)]
    if not columns:
        return None
    rows = pd.concat(families)[["model", *columns]].reset_index().to_numpy().tolist()
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
    """A mean with its interval, maybe in bold."""
    text = value.text(digits)
    return f"**{text}**" if bold else text


def shown(value: Interval, name: str) -> str:
    """A metric's value as the tables show it, with its unit."""
    each = metric(name)
    return f"{cell(value, each.digits)} {each.unit}".rstrip()


def listed(names: Iterable[object]) -> str:
    """`a, b and c`."""
    *most, last = map(str, names)
    return f"{', '.join(most)} and {last}" if most else last


def spreadsheet(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
