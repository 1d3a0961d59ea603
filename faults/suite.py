"""Runs the fault suite, which injects faults into the pipeline, and shows a table of the results.

For each fault, the table says how many trials had the promised outcome. A family is a group of similar faults, such as
kills of trainings.

    python -m faults                     # all families: about 90 minutes on 2 cores
    python -m faults --share 0.1         # all families, with a tenth of the trials
    python -m faults --only trainers --only flips
"""

import json
import math
import multiprocessing
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from aelab.core import devices
from faults import files, hostile, kills, parameters, tracker, workers
from faults.table import Counts
from pipeline.common import resources

Family = Callable[[Path, int, int], Iterator[Counts]]
# For each family: the function, the number of trials with --share 1, and the number of processes that share the trials.
FAMILIES: dict[str, tuple[Family, int, int]] = {
    "trainers": (kills.trainers, 50, 2),
    "stages": (kills.stages, 10, 2),
    "runners": (kills.runners, 10, 1),
    "stops": (kills.stops, 10, 1),
    "workers": (workers.kills, 20, 1),
    "fuzz": (parameters.fuzz, 10_000, 2),
    "two": (files.two_at_once, 20, 1),
    "tracker": (tracker.outages, 20, 1),
    "repeats": (files.repeats, 10, 1),
    "disk": (files.full_disk, 10, 1),
    "writes": (files.writes, 100, 1),
    "flips": (files.flips, 1000, 1),
    "hostile": (hostile.attacks, 1, 1),
}
RESULTS = Path(__file__).parent / "results.json"


def main(
    *,
    seed: Annotated[int, typer.Option(help="Random seed of the faults.")] = 0,
    share: Annotated[float, typer.Option(min=0.001, max=1, help="Share of the full number of trials.")] = 1.0,
    only: Annotated[list[str] | None, typer.Option(help=f"Families to run: {', '.join(FAMILIES)}.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time; the default is one per CPU.")] = None,
) -> None:
    """Inject faults into the pipeline, and count how often the outcome was the promised one."""
    wanted = list(dict.fromkeys(only or FAMILIES))
    if unknown := set(wanted) - set(FAMILIES):
        sys.exit(f"there is no family {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")
    began, rows = time.monotonic(), dict[str, Counts]()
    place = Path(tempfile.mkdtemp(prefix="faults-"))
    pool = ProcessPoolExecutor(jobs or resources.cpus(), multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with pool:
        running = {}
        for name in wanted:
            _, full, parts = FAMILIES[name]
            for part in range(parts):
                count = math.ceil(full * share / parts)
                running[pool.submit(_run, name, place / f"{name}{part}", seed * 100 + part, count)] = (
                    f"{name} {part + 1}"
                )
        for future in as_completed(running):
            for counts in future.result():
                rows[counts.fault] = _sum(rows.get(counts.fault), counts)
            print(f"{(time.monotonic() - began) / 60:.0f} min: {running[future]} is done", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    made = {"seed": seed, "minutes": round((time.monotonic() - began) / 60), "machine": _machine(), "commit": _commit()}
    found = {fault: asdict(row) | made for fault, row in rows.items()}
    print(_table(found))
    if share == 1.0:
        kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() and only else {}
        RESULTS.write_text(json.dumps(kept | found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        RESULTS.with_suffix(".md").write_text(_table(kept | found), encoding="utf-8")
    sys.exit(any(row.kept < row.tried for row in rows.values()))


def _machine() -> str:
    processor = devices.describe(torch.device("cpu")).partition(",")[0]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{resources.cpus()} cores of {processor}, {platform.system()}, {versions}"


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _run(name: str, folder: Path, seed: int, count: int) -> list[Counts]:
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    family, *_ = FAMILIES[name]
    try:
        return list(family(folder / "project" if name in NEED_A_PROJECT else folder, seed, count))
    except Exception as error:  # noqa: BLE001 - the other families continue
        return [Counts(name, "runs at all", count, tried=1, broken=[f"{type(error).__name__}: {error}"])]


NEED_A_PROJECT = {"workers", "trainers", "stages", "runners", "stops", "two", "tracker", "repeats", "disk"}


def _sum(before: Counts | None, more: Counts) -> Counts:
    if before is None:
        return more
    return replace(
        more,
        full=before.full + more.full,
        kept=before.kept + more.kept,
        tried=before.tried + more.tried,
        broken=before.broken + more.broken,
    )


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "# Results of fault injection",
        "",
        "`make faults` generates this page. The command injects each fault several times, on the digits, with a",
        "checkpoint every 0.1 s. After most faults, the pipeline runs again. The promise is what must be true then.",
        "“Same” means the same bits as without a fault. “Kept” is the number of trials that kept the promise.",
        "The trainer is the process that trains a model. The tracker is the process that copies results to MLflow.",
        "",
        "| fault | promise | kept | remark | commit, seed |",
        "|---|---|---:|---|---|",
    ]
    for fault, row in sorted(rows.items()):
        broken = f" broken: {row['broken'][0][:200]}" if row["broken"] else ""
        count = f"{row['kept']:,} of {row['tried']:,}"
        made = f"{row['commit']}, {row['seed']}"
        lines.append(f"| {fault} | {row['promise']} | {count} | {row['remark']}{broken} | {made} |")
    machines = sorted(
        {f"- {row['machine']}: {row['minutes']} minutes at commit {row['commit']}" for row in rows.values()}
    )
    return "\n".join([*lines, "", *machines, ""])
