"""Tables of means over the seeds, of what differs between entries, and numbers as they are shown."""

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
    """A table of text: entries down, metrics across."""

    title: str  # "" if it goes on with the table before it
    note: str
    header: list[str]
    rows: list[list[str]]  # a best value is between asterisks, as Markdown's bold
    names: Sequence[str] = ()  # of the metrics of all columns but the first
    floors: Sequence[str] = ()  # entries that are not ranked; their rows are the last ones


def tables(title: str, note: str, evidence: Evidence, names: Iterable[str], *, say_pixels: bool = True) -> list[Table]:
    """Means over the seeds with their 95 % intervals, in bold the best of each column and all that cannot be told from
    it; each table's note says what its intervals cover.

    A likelihood has a column for each kind of pixels, since those of different kinds are not comparable. Metrics that
    the same entries define share a table, so that no cell is empty; those of most entries come first. Floors
    stand at the end of each table that has a value of theirs, and are not ranked.

    Args:
        title: of the first table; the others go on with it.
        note: what to know to read them.
        evidence: the entries and their results.
        names: the metrics to show.
        say_pixels: whether the heading of a likelihood names its pixels.
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
    """Tables as one, its columns in the order of `names`; a dash stands where an entry does not define a metric."""
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
    """A metric's means by entry, and who leads."""

    name: str
    heading: str
    means: Mapping[str, Interval]
    leaders: AbstractSet[str]

    def cell(self, entry: str) -> str:
        """An entry's mean with its interval; a dash for one that does not define the metric."""
        if entry not in self.means:
            return "–"
        return cell(self.means[entry], _metric(self.name).digits, bold=entry in self.leaders)

    @property
    def over(self) -> str:
        """What its intervals cover; nothing where it shows none."""
        return next((mean.over for mean in self.means.values() if mean.known and mean.half), "")


def _columns(evidence: Evidence, name: str, say_pixels: bool) -> Iterator[Column]:  # noqa: FBT001
    """The columns that show a metric, each with a cell for every entry that defines it."""
    for kind, entries in comparable(evidence, name):
        means = {entry.name: evidence.mean(entry, name) for entry in entries}
        head = heading(_metric(name), kind if say_pixels else None)
        yield Column(name, head, means, evidence.leaders(name, entries))


def coverage(evidence: Evidence, names: Iterable[str]) -> str:
    """What the intervals of these metrics cover, in a sentence; nothing where there are none."""
    return _coverage([column for name in names for column in _columns(evidence, name, say_pixels=False)])


def _coverage(columns: Sequence[Column]) -> str:
    """What the intervals of these columns cover, in a sentence."""
    titles: dict[str, list[str]] = {}
    for column in columns:
        if column.over:
            titles.setdefault(column.over, []).append(_metric(column.name).title)
    most, *others = sorted(titles, key=lambda over: -len(titles[over])) or [""]
    rest = "".join(f"; of {listed(dict.fromkeys(titles[over]))} over {over}" for over in others)
    return f"±: 95 % interval over {most}{rest}." if most else ""


def comparable(evidence: Evidence, name: str) -> Iterator[tuple[str | None, list[Entry]]]:
    """The entries that can be compared by a metric: for a likelihood those of one kind of pixels, else all (None)."""
    kinds: dict[str | None, list[Entry]] = {}
    for entry in evidence.having(name):
        kinds.setdefault(entry.pixels if _metric(name).likelihood else None, []).append(entry)
    yield from kinds.items()


def _metric(name: str) -> Metric:
    return metric(name.removeprefix("validation_"))


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
