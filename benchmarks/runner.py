"""(o) CPU time of `make repro` without the commands of its stages, on the data set `digits` with short stages."""

import re
import resource
import tempfile
from pathlib import Path

from benchmarks.dag import PARALLEL, Clone
from benchmarks.measure import Table, Value

ENTRIES = (5, 100)  # numbers of entries (model configurations)
FEW = {"training.steps": 20, "training.points": 2, "training.validations": 1, "evaluation.classifier.steps": 20,
       "evaluation.samples": 100, "evaluation.importance.samples": 10, "evaluation.importance.images": 2}  # fmt: skip
# The shell of the stages: the script calls /bin/sh for a command, and writes the CPU time of the command to a file.
SHELL = """#!/bin/sh
/bin/sh "$@"
code=$?
times > "$0.$$"
exit $code
"""


def run() -> Table:
    """Measure a run without earlier results (cold) and a run without changes, for each number of entries."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for count in ENTRIES for row in measure(Path(folder) / f"{count}", count)]
    note = (
        "CPU seconds of `make repro` with one seed. The runner's part is everything except the commands of the stages: "
        "the plan, DVC's work, and the process that shows the curves in MLflow."
    )
    columns = {"": 0, "stages": 0, "all": 1, "commands of the stages": 1, "the runner, per stage": 2}
    return Table("(o) CPU time of the runner", note, columns, rows)


def measure(folder: Path, entries: int) -> list[list[Value]]:
    """Return the rows of the table for a project with `entries` autoencoders."""
    clone = Clone(folder / "clone", **FEW)
    section = clone.parameters()["variants"]["ae"]
    clone.change(variants={f"ae{number:03}": section | {"code": 2 + number} for number in range(entries)})
    shell = folder / "shell"
    shell.write_text(SHELL, encoding="utf-8")
    shell.chmod(0o755)
    rows: list[list[Value]] = []
    for what in ("cold", "nothing to do"):
        before = _children()
        clone.time(*PARALLEL, SHELL=str(shell))
        everything, notes = _children() - before, list(folder.glob("shell.*"))
        commands = sum(_noted(note) for note in notes)
        stages, rest = len(notes) or 2 * entries + 7, everything - commands
        rows.append([f"{entries} entries, {what}", float(stages), everything, commands, rest / stages])
        print(rows[-1], flush=True)
    return rows


def _noted(note: Path) -> float:
    """Return the CPU seconds in a file that `SHELL` wrote, and delete the file."""
    *_, children = note.read_text(encoding="utf-8").splitlines()
    note.unlink()
    return sum(60 * float(minutes) + float(seconds) for minutes, seconds in re.findall(r"(\d+)m([\d.]+)s", children))


def _children() -> float:
    """Return the CPU seconds of all ended child processes and of their own children."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
