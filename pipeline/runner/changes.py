"""Compares the report's numbers on disk with the numbers in git's HEAD.

The report cannot show the changes: HEAD is no input of the stage, and DVC may restore the report from its cache. So the
runner prints the changes after the report, and writes them to `reports/changes.md`, which git ignores.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from aelab.report.intervals import Interval, holm, interval
from aelab.report.metrics import HEADLINE, METRICS, OVERVIEW
from pipeline.common import git, paths

TABLE, PAGE = paths.REPORTS / "comparison.csv", paths.REPORTS / "changes.md"
COMPARED = tuple(dict.fromkeys((*OVERVIEW, *HEADLINE)))
MOST = 8  # maximum number of changes that the terminal shows

Rows: TypeAlias = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Change:
    """A metric of an entry whose displayed mean has changed."""

    entry: str
    metric: str
    before: str
    now: str
    gap: Interval  # interval of the difference, paired by seed, widened for the number of comparisons
    share: float  # size of the change, relative to the mean before

    @property
    def verdict(self) -> str:
        """Whether the metric is better or worse now; the reason for doubt if the interval contains 0 or is unknown."""
        if not self.gap.known:
            return "one seed: may be chance"
        side = self.gap.side(0)
        if side == 0:
            return "may be chance"
        better = {"higher": 1, "lower": -1, None: 0}[METRICS[self.metric].better]
        return {1: "better", -1: "worse", 0: "higher" if side > 0 else "lower"}[side * better]

    @property
    def cells(self) -> list[str]:
        """The change as cells of a table row."""
        each = METRICS[self.metric]
        return [self.entry, each.title + each.arrow, self.before, self.now, self.verdict]


def print_changes() -> None:
    """Print what changed since HEAD, if the data are the same, and write all changes to a page."""
    PAGE.unlink(missing_ok=True)
    committed = git.output("show", f"HEAD:./{TABLE.as_posix()}") or ""
    commit = (git.output("rev-parse", "--short", "HEAD") or "").strip()
    if not committed or not TABLE.exists():
        return
    before, now = _read(committed), _read(TABLE.read_text(encoding="utf-8"))
    if not differ(before, now) and (found := changes(before, now)):
        title = f"What changed since the commit {commit}"
        PAGE.write_text(f"# {title}\n\n{markdown(found)}", encoding="utf-8")
        print(f"\n{title}:")
        for each in found[:MOST]:
            entry, metric, old, new, verdict = each.cells
            print(f"  {entry}: {metric} {old} → {new} ({verdict})")
        more = f"{len(found) - MOST} more; all changes" if len(found) > MOST else "the same changes"
        print(f"{more}: {PAGE}")


def differ(before: Rows, now: Rows) -> bool:
    """Whether an entry in both tables was trained on other data."""
    data = {row["entry"]: row.get("data") for row in before}
    return any(data.get(row["entry"], row["data"]) != row["data"] for row in now)


def changes(before: Rows, now: Rows) -> list[Change]:
    """Return every metric whose displayed mean has changed, over the seeds in both tables.

    Significant changes come first, then all others; each group is sorted by the relative size of the change.
    """
    found = list[Change]()
    for entry in dict.fromkeys(row["entry"] for row in now):
        for name in COMPARED:
            old, new = (_values(rows, entry, name) for rows in (before, now))
            seeds = [seed for seed in new if seed in old]
            if not seeds:
                continue
            means = [sum(of[seed] for seed in seeds) / len(seeds) for of in (old, new)]
            texts = [f"{mean:,.{METRICS[name].digits}f}" for mean in means]
            if texts[0] != texts[1]:
                gap = interval(new[seed] - old[seed] for seed in seeds)
                share = abs(means[1] - means[0]) / abs(means[0]) if means[0] else math.inf
                found.append(Change(entry, name, texts[0], texts[1], gap, share))
    wider = holm([each.gap for each in found])
    found = [replace(each, gap=gap) for each, gap in zip(found, wider, strict=True)]
    return sorted(found, key=lambda each: (each.gap.side(0) == 0, -each.share))


def markdown(found: Iterable[Change]) -> str:
    """Return all changes as a table, with a note on the verdicts."""
    rows = "\n".join(f"| {' | '.join(text.replace('|', '∣') for text in each.cells)} |" for each in found)
    note = (
        "Test split, means over the seeds in both tables. A verdict follows from the 95 % interval of the differences, "
        "paired by seed (Holm)."
    )
    return f"| entry | metric | before | now | verdict |\n|---|---|---:|---:|---|\n{rows}\n\n{note}\n"


def _values(rows: Rows, entry: str, name: str) -> dict[str, float]:
    """Return an entry's values of a metric by seed, without undefined values."""
    texts = {row["seed"]: row.get(name) or "n/a" for row in rows if row["entry"] == entry}
    return {seed: float(text) for seed, text in texts.items() if text != "n/a"}


def _read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))
