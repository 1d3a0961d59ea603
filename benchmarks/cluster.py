"""(k) Time to run DVC stages on a Dask cluster. The scheduler, workers and S3 server all run on this machine."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.measure import Table, Value, seconds
from tests.support.cluster import Cluster, cluster
from tests.support.project import Project
from tests.support.s3 import S3, s3, use

STAGES = 64
ASLEEP = 10  # seconds that each stage sleeps
ENTRIES = 500  # entries (model configurations) of the large project, with two stages each


def run() -> list[Table]:
    """Return three tables, one from each of the next three functions."""
    with tempfile.TemporaryDirectory() as folder, s3(Path(folder) / "s3") as store:
        top = Path(folder)
        return [_workers(top, store), _one(top, store), _many(top, store)]


def _workers(top: Path, store: S3) -> Table:
    """Compare the duration of many sleeping stages, on 2 and on 4 workers, with the shortest possible duration."""
    rows: list[list[Value]] = []
    for workers in (2, 4):
        made = _sleeping(top / f"project{workers}", store, STAGES, ASLEEP)
        with cluster(top / f"cluster{workers}", made.folder, workers, store) as running:
            _call(made, running, stage="warm")
            took = _call(made, running)
            ideal = STAGES * ASLEEP / workers
        rows.append([f"{workers} workers", ideal, took, ideal / took])
    note = f"Seconds of a command with {STAGES} stages that sleep for {ASLEEP} s. Each worker has run a stage before."
    return Table("(k) Stages on workers", note, {"": 0, "ideal, s": 0, "seconds": 1, "ideal ÷ seconds": 3}, rows)


def _one(top: Path, store: S3) -> Table:
    """Measure how much longer an empty stage takes on a worker than in a run without a cluster."""
    here, there = (_sleeping(top / name, store, 2, 0) for name in ("here", "there"))
    with cluster(top / "one", there.folder, 1, store) as running:
        _call(there, running, stage="warm")
        local = _command(here, running.environment(), "--jobs", "1")
        far = _call(there, running)
    rows: list[list[Value]] = [["here", local], ["on one worker", far], ["more for each stage", (far - local) / 3]]
    return Table("(k) Cost of a stage on the cluster", "Seconds of a command with three empty stages, one at a time.",
                 {"": 0, "seconds": 2}, rows)  # fmt: skip


def _many(top: Path, store: S3) -> Table:
    """Measure the delay before the first stage in a project with many entries."""
    made = Project(top / "many")
    params = made.params()
    params["variants"] = {f"ae{number:03}": params["variants"]["ae"] for number in range(ENTRIES)}
    made.write_params(params)
    use(made.folder, store, "many")
    made.git("commit", "--quiet", "--all", "--message", "many")
    rows: list[list[Value]] = []
    with cluster(top / "many-cluster", made.folder, 1, store) as running:
        for where, options in (("here", []), ("on a worker", ["--scheduler", running.address])):
            began = time.monotonic()
            command = [sys.executable, "-m", "pipeline.runner.repro", *options]
            process = subprocess.Popen(command, cwd=made.folder, text=True,  # noqa: S603
                                       env=running.environment(), stdout=subprocess.PIPE)  # fmt: skip
            next(line for line in process.stdout or () if "start" in line)
            rows.append([f"the first stage begins {where}", time.monotonic() - began])
            process.terminate()
            process.wait()
    note = (
        f"Seconds from the start of a command to its first running stage. The project has {ENTRIES} entries and "
        f"{2 * ENTRIES + 7} stages."
    )
    return Table("(k) Planning", note, {"": 0, "seconds": 1}, rows)


def _sleeping(folder: Path, store: S3, stages: int, asleep: float) -> Project:
    """Make a project with `stages` stages that sleep for `asleep` seconds each, after one first stage."""
    made = Project(folder)
    content: dict[str, Any] = {
        "first": {"cmd": "seq 100000 > first.txt", "outs": ["first.txt"]},
        "sleep": {
            "foreach": [f"{number:02}" for number in range(stages)],
            "do": {"cmd": f"sleep {asleep} && (wc first.txt && echo ${{item}}) > ${{item}}.txt",
                   "deps": ["first.txt"], "outs": ["${item}.txt"]},
        },
    }  # fmt: skip
    YAML().dump({"stages": content}, folder / "dvc.yaml")
    with (folder / ".gitignore").open("a", encoding="utf-8") as file:
        file.write("/*.txt\n")
    use(folder, store, folder.name)
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "sleep")
    return made


def _call(made: Project, running: Cluster, stage: str = "") -> float:
    """Run the project's stages on the cluster, and return the seconds.

    If `stage` is given, run other, short stages instead, one for each worker, with names that begin with `stage`. So
    each worker does its imports before a measurement. The function then returns 0.
    """
    if stage:
        warm = {f"{stage}{number}": {"cmd": f"sleep 5 && echo {number} > w{number}.txt", "outs": [f"w{number}.txt"]}
                for number in range(len(running.processes) - 1)}  # fmt: skip
        plain = (made.folder / "dvc.yaml").read_text(encoding="utf-8")
        YAML().dump({"stages": warm}, made.folder / "dvc.yaml")
        _command(made, running.environment(), "--scheduler", running.address)
        (made.folder / "dvc.yaml").write_text(plain, encoding="utf-8")
        (made.folder / "dvc.lock").unlink()
        return 0.0
    return _command(made, running.environment(), "--scheduler", running.address)


def _command(made: Project, environment: dict[str, str], *options: str) -> float:
    command = [sys.executable, "-m", "pipeline.runner.repro", *options]
    return seconds(lambda: subprocess.run(command, cwd=made.folder, env=environment, check=True, capture_output=True))  # noqa: S603
