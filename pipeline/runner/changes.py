"""Compares the numbers of the new report with the numbers of the report in git's HEAD.

The report itself cannot show these changes: HEAD is not a dependency of the stage `report`, and DVC may restore the
report from its cache. Therefore `pipeline.runner.repro` prints the changes after this stage, and writes the changes to
`reports/changes.md`, which git ignores.
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
    """Change of a metric's mean for one entry, which is a model configuration in `params.yaml`."""

    entry: str
    metric: str
    before: str  # mean in HEAD, rounded for display
    now: str  # mean in the new report, rounded for display
    gap: Interval  # confidence interval of the difference, paired by seed and corrected for multiple comparisons
    share: float  # size of the change, relative to the mean in HEAD

    @property
    def verdict(self) -> str:
        """Verdict on the change, such as "better" or "worse".

        If the interval contains 0 or there is only one seed, the verdict is that the change may be chance.
        """
        if not self.gap.known:
            return "one seed: may be chance"
        side = self.gap.side(0)
        if side == 0:
            return "may be chance"
        better = {"higher": 1, "lower": -1, None: 0}[METRICS[self.metric].better]
        return {1: "better", -1: "worse", 0: "higher" if side > 0 else "lower"}[side * better]

    @property
    def cells(self) -> list[str]:
        """The texts of the change's row in a table."""
        each = METRICS[self.metric]
        return [self.entry, each.title + each.arrow, self.before, self.now, self.verdict]


def print_changes() -> None:
    """Print the first changes since HEAD, and write all changes to `reports/changes.md`.

    If an entry was trained on other data than in HEAD, nothing is printed or written.
    """
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
    """Whether an entry that is in both tables was trained on other data in `now` than in `before`."""
    data = {row["entry"]: row.get("data") for row in before}
    return any(data.get(row["entry"], row["data"]) != row["data"] for row in now)


def changes(before: Rows, now: Rows) -> list[Change]:
    """Return every change of a metric's displayed mean. A mean is over the seeds that are in both tables.

    Significant changes come first, then all other changes. In both groups, larger relative changes come first.
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
    """Return all changes as a table in Markdown, with a note on the verdicts."""
    rows = "\n".join(f"| {' | '.join(text.replace('|', '∣') for text in each.cells)} |" for each in found)
    note = (
        "Test split, means over the seeds in both tables. A verdict follows from the 95 % interval of the differences, "
        "paired by seed (Holm)."
    )
    return f"| entry | metric | before | now | verdict |\n|---|---|---:|---:|---|\n{rows}\n\n{note}\n"


def _values(rows: Rows, entry: str, name: str) -> dict[str, float]:
    """Return an entry's values of a metric, by seed. Seeds with an undefined value are left out."""
    texts = {row["seed"]: row.get(name) or "n/a" for row in rows if row["entry"] == entry}
    return {seed: float(text) for seed, text in texts.items() if text != "n/a"}


def _read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))
