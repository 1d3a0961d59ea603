"""Tables of the report: means of metrics over the seeds, and the parameters in which entries differ.

An entry is a model configuration in `params.yaml`. A floor is an entry without training, such as PCA.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aelab.report.evidence import Entry, Evidence
from aelab.report.intervals import Interval
from aelab.report.metrics import Metric, metric


@dataclass(frozen=True)
class Table:
    """Table of the report. All cells are text. Usually each row shows an entry, and each column a metric.

    Attributes:
        title: title of the table; empty if the table continues the table before it.
        note: explanation above the table.
        header: headings of all columns.
        rows: cells of all rows. The best values of a column are bold in Markdown, as in `**0.1**`.
        names: name of the metric in each column after the first; an empty text for a column without a metric.
        floors: names of the floors, which are in the last rows.
    """

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]
    names: Sequence[str] = ()
    floors: Sequence[str] = ()


def tables(title: str, note: str, evidence: Evidence, names: Iterable[str], *, say_pixels: bool = True) -> list[Table]:
    """Return tables of means with 95 % intervals. The best mean of a column, and the means that tie with it, are bold.

    Metrics share a table if they are defined for the same trained entries, so that only floors can have empty cells. A
    metric of the likelihood, such as −ELBO, has a column for each kind of pixels ("Bernoulli", "8-bit", "continuous"),
    because its values are comparable only within a kind. Tables with more entries come first. Floors are not ranked.
    Each table's note says whether its intervals cover seeds, test images or both.

    Args:
        title: title of the first table, which the other tables continue.
        note: explanation above the first table.
        evidence: the entries and their results.
        names: names of the metrics to show.
        say_pixels: whether the heading of each likelihood metric names the kind of pixels, gray or binarised.
    """
    floors = [entry.name for entry in evidence.entries if entry.floor]
    defining: dict[tuple[str, ...], list[Column]] = {}
    for name in names:
        for column in _columns(evidence, name, say_pixels):
            trained = tuple(entry for entry in column.means if entry not in floors)
            defining.setdefault(trained or tuple(column.means), []).append(column)
    made = list[Table]()
    for entries, columns in sorted(defining.items(), key=lambda item: -len(item[0])):
        header = ["", *(column.heading for column in columns)]
        below = [floor for floor in floors if floor not in entries and any(floor in column.means for column in columns)]
        rows = [[entry, *(column.cell(entry) for column in columns)] for entry in (*entries, *below)]
        said = " ".join(text for text in ("" if made else note.strip(), _coverage(columns)) if text)
        made.append(Table("" if made else title, said, header, rows, [column.name for column in columns], below))
    return made


def joined(parts: Sequence[Table], names: Sequence[str]) -> Table:
    """Join tables into one table. Its columns have the order of the metrics in `names`.

    A dash means that the entry does not define the metric.
    """
    entries = dict.fromkeys(row[0] for part in parts for row in part.rows)
    columns = [
        (name, part.header[i], {row[0]: row[i] for row in part.rows})
        for part in parts
        for i, name in enumerate(part.names, 1)
    ]
    columns.sort(key=lambda column: names.index(column[0]))
    rows = [[entry, *(cells.get(entry, "–") for *_, cells in columns)] for entry in entries]
    floors = [entry for entry in entries if any(entry in part.floors for part in parts)]
    return Table("", "", ["", *(head for _, head, _ in columns)], rows, [name for name, *_ in columns], floors)


@dataclass(frozen=True)
class Column:
    """Column of a table: a metric's mean for each entry.

    `leaders` has the names of the best entry and of the entries that tie with the best.
    """

    name: str
    heading: str
    means: Mapping[str, Interval]
    leaders: AbstractSet[str]

    def cell(self, entry: str) -> str:
        """Return an entry's mean with its interval, or a dash if the entry does not define the metric."""
        if entry not in self.means:
            return "–"
        return cell(self.means[entry], _metric(self.name).digits, bold=entry in self.leaders)

    @property
    def over(self) -> str:
        """Sources of variation that the intervals cover, such as "seeds"; empty if no mean has an interval."""
        return next((mean.over for mean in self.means.values() if mean.known and mean.half), "")


def _columns(evidence: Evidence, name: str, say_pixels: bool) -> Iterator[Column]:  # noqa: FBT001
    """Yield the column of a metric. A metric of the likelihood has a column for each kind of pixels."""
    for kind, entries in comparable(evidence, name):
        means = {entry.name: evidence.mean(entry, name) for entry in entries}
        head = heading(_metric(name), kind if say_pixels else None)
        yield Column(name, head, means, evidence.leaders(name, entries))


def coverage(evidence: Evidence, names: Iterable[str]) -> str:
    """Return a sentence such as "±: 95 % interval over seeds."; empty if no metric has an interval."""
    return _coverage([column for name in names for column in _columns(evidence, name, say_pixels=False)])


def _coverage(columns: Sequence[Column]) -> str:
    """Return a sentence such as "±: 95 % interval over seeds."; empty if no column has an interval."""
    titles: dict[str, list[str]] = {}
    for column in columns:
        if column.over:
            titles.setdefault(column.over, []).append(_metric(column.name).title)
    most, *others = sorted(titles, key=lambda over: -len(titles[over])) or [""]
    rest = "".join(f"; for {listed(dict.fromkeys(titles[over]))} over {over}" for over in others)
    return f"±: 95 % interval over {most}{rest}." if most else ""


def comparable(evidence: Evidence, name: str) -> Iterator[tuple[str | None, list[Entry]]]:
    """Yield groups of entries whose values of a metric are comparable, each group with its kind of pixels.

    A metric of the likelihood has a group for each kind of pixels. Any other metric has one group, of the kind None.
    """
    kinds: dict[str | None, list[Entry]] = {}
    for entry in evidence.having(name):
        kinds.setdefault(entry.pixels if _metric(name).likelihood else None, []).append(entry)
    yield from kinds.items()


def _metric(name: str) -> Metric:
    return metric(name.removeprefix("validation_"))


def heading(each: Metric, pixels: str | None = None) -> str:
    """Return a metric's title, kind of pixels, unit and arrow, as in "−ELBO, Bernoulli (nats) ↓"."""
    return each.title + (f", {pixels}" if pixels else "") + (f" ({each.unit})" if each.unit else "") + each.arrow


def differences(sections: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Return a table of the parameters in which entries of the same model differ; None if no parameter differs."""
    texts = {name: {key: str(value) for key, value in flattened(each)} for name, each in sections.items()}
    frame = pd.DataFrame.from_dict(texts, orient="index").fillna("–")
    families = [family for _, family in frame.groupby("model", sort=False)]
    columns = [str(key) for key in frame if any(len(set(family[key])) > 1 for family in families)]
    if not columns:
        return None
    rows = pd.concat(families)[["model", *columns]].reset_index().to_numpy().tolist()
    note = "Parameters in which entries of one model differ. A dash means that the entry has no such parameter."
    return Table("Differences between the entries", note, ["", "model", *columns], rows)


def flattened(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of nested mappings with its dotted key, such as `training.steps`."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def cell(value: Interval, digits: int, *, bold: bool = False) -> str:
    """Return a mean with its interval as text. With `bold`, the text is bold in Markdown."""
    text = value.text(digits)
    return f"**{text}**" if bold else text


def shown(value: Interval, name: str) -> str:
    """Return a value of the metric `name` as text, with the metric's number of digits and unit."""
    each = metric(name)
    return f"{cell(value, each.digits)} {each.unit}".rstrip()


def listed(names: Iterable[object]) -> str:
    """Join names as in `a, b and c`."""
    *most, last = map(str, names)
    return f"{', '.join(most)} and {last}" if most else last


def spreadsheet(value: Any) -> Any:
    """Return a CSV cell that no spreadsheet program reads as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
