"""(l) Growth of the time of four tasks with the amount of work.

The tasks are MLflow's queries by number of runs, data handling by bytes, DVC's planning by entries (model
configurations), and an empty Dask task by number of workers. The column "slope" is the slope of log(time) against
log(amount) between two rows.

The times of DVC and Dask are CPU time. The times of MLflow and of data files are elapsed time, because they include
waits for a disk.
"""

import copy
import math
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]
from mlflow import MlflowClient

from aelab.core import arrays, disk
from aelab.report import mlflow_writer
from benchmarks.dag import REPOSITORY, Clone
from benchmarks.measure import Table, Value, seconds

RUNS, MEBIBYTES, ENTRIES, TASKS = (100, 1000, 10_000), (64, 128, 256, 512), (10, 30, 100), 1000
IMAGE_BYTES = 3 * 128 * 128
METRICS, POINTS, PARAMETERS, TAGS = 60, 110, 40, 30  # estimated numbers of each in a run


def run() -> list[Table]:
    """Return a table for each of the four tasks."""
    with tempfile.TemporaryDirectory() as folder:
        return [_tracking(Path(folder)), _data(Path(folder)), _planning(Path(folder)), _engine()]


def cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds that `work` takes in this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def _rows(what: str, sizes: list[float], times: list[float]) -> list[list[Value]]:
    """Return a row for each size, with the slope from the previous row to this row."""
    slopes = [None] + [
        math.log(max(b, 1e-9) / max(a, 1e-9)) / math.log(y / x)
        for a, b, x, y in zip(times, times[1:], sizes, sizes[1:], strict=False)
    ]
    return [[what, size, 1000 * took, slope] for size, took, slope in zip(sizes, times, slopes, strict=True)]


def _tracking(folder: Path) -> Table:
    """Time MLflow's queries of a SQLite database with artificial runs, which have no data sets or models."""
    database = folder / "mlflow.db"
    projector = mlflow_writer.Projector(f"sqlite:///{database}", folder / "artifacts", folder / "lock")
    projector.open("")
    client, times, sizes = MlflowClient(), dict[str, list[float]](), list[float]()
    page: dict[str, Any] = {"experiment_ids": [projector.experiment_id], "max_results": 100}
    filled = 0
    for count in RUNS:
        _fill(database, projector.experiment_id, filled, count)
        filled = count
        sizes.append(database.stat().st_size / count)
        run = mlflow_writer.Run("new", "", f"new-{count}", "KILLED", time.time(), {}, {},
                           [{"phase": "autoencoder", "step": i, "time": time.time(), "train_loss": 1.0}
                            for i in range(POINTS)])  # fmt: skip
        asked: dict[str, Callable[[], object]] = {
            "ours: a run by its fingerprint": lambda: client.search_runs(
                [projector.experiment_id], "tags.training = 't7'"
            ),
            "ours: a champion's run": lambda: client.search_runs(
                [projector.experiment_id], "tags.fingerprint = 'f7' and tags.complete = 'yes'"
            ),
            "page: 100 runs by start": lambda: client.search_runs(**page, order_by=["attributes.start_time DESC"]),
            "page: 100 runs by a metric": lambda: client.search_runs(**page, order_by=["metrics.`test/m0` ASC"]),
            "page: a metric's history": lambda: client.get_metric_history(f"{7:032x}", "autoencoder/train_loss"),
        }
        for what, ask in asked.items():
            ask()
            times.setdefault(what, []).append(statistics.median(seconds(ask) for _ in range(3)))
        log = lambda run=run: projector.project(run)  # noqa: E731
        times.setdefault("ours: one more run, 110 points", []).append(seconds(log))
    rows = [row for what, took in times.items() for row in _rows(what, [float(count) for count in RUNS], took)]
    note = (
        f"A SQLite database with artificial runs. A run has {METRICS} metrics, 2 curves of {POINTS} points, "
        f"{PARAMETERS} parameters and {TAGS} tags: {sizes[-1] / 1024:.0f} KiB in the largest database. A time is the "
        "median of 3 calls after a first call; “one more run” is a single call. “Ours” are calls of the pipeline, and "
        "“page” are calls of MLflow's pages."
    )
    return Table("(l) MLflow's time by number of runs", note, {"what": 0, "runs": 0, "ms": 1, "slope": 2}, rows)


def _fill(database: Path, experiment: str, first: int, end: int) -> None:
    """Write the artificial runs with the numbers `first` to `end` - 1 to MLflow's database."""
    connection, names = sqlite3.connect(database), range(first, end)
    connection.executemany(
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, "
        "end_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
        "VALUES (?, ?, 'UNKNOWN', '', '', 'u', 'FINISHED', ?, ?, '', 'active', '', ?)",
        ((f"{i:032x}", f"r{i}", i, i + 1, int(experiment)) for i in names),
    )
    curves = [(f"autoencoder/{name}", step) for name in ("train_loss", "validation_loss") for step in range(POINTS)]
    points = [*((f"test/m{k}", 0) for k in range(METRICS)), *curves]
    metrics = ((key, float(i * 7919 % 10007), step, f"{i:032x}", step) for i in names for key, step in points)
    connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, 0)", metrics)
    latest = [*points[:METRICS], curves[POINTS - 1], curves[-1]]
    connection.executemany(
        "INSERT INTO latest_metrics VALUES (?, ?, ?, ?, 0, ?)",
        ((key, float(i * 7919 % 10007), step, step, f"{i:032x}") for i in names for key, step in latest),
    )
    texts = [("params", f"key{k}", "value") for k in range(PARAMETERS)] + [
        ("tags", f"version.{k}", "1") for k in range(TAGS - 3)
    ]
    for table in ("params", "tags"):
        some = [(key, value) for of, key, value in texts if of == table]
        connection.executemany(
            f"INSERT INTO {table} VALUES (?, ?, ?)",  # noqa: S608
            ((key, value, f"{i:032x}") for i in names for key, value in some),
        )
    own = (("training", "t{}"), ("fingerprint", "f{}"), ("complete", "yes"))
    connection.executemany(
        "INSERT INTO tags VALUES (?, ?, ?)", ((key, to.format(i), f"{i:032x}") for i in names for key, to in own)
    )
    connection.commit()
    connection.close()


def _data(folder: Path) -> Table:
    """Time how long a data file of each size takes to write, hash, check, copy and link."""
    from dvc.fs import LocalFileSystem  # noqa: PLC0415
    from dvc_data.hashfile.hash import file_md5  # noqa: PLC0415

    times: dict[str, list[float]] = {}
    for size in MEBIBYTES:
        count, there = size * 2**20 // IMAGE_BYTES, folder / f"{size}"
        image = np.random.default_rng(0).integers(0, 256, (64, 3, 128, 128), np.uint8)
        pieces = (image[: min(64, count - start)] for start in range(0, count, 64))
        path = there / "images.npy"
        steps: dict[str, Callable[[], object]] = {
            "write": lambda: arrays.write(path, (count, 3, 128, 128), pieces),  # noqa: B023
            "seal (SHA-256)": lambda: disk.seal(there),  # noqa: B023
            "check, before every stage": lambda: disk.check(there),  # noqa: B023
            "DVC's md5": lambda: file_md5(str(path), LocalFileSystem()),  # noqa: B023
            "copy": lambda: shutil.copyfile(path, there / "copy"),  # noqa: B023
            "link": lambda: os.link(path, there / "link"),  # noqa: B023
        }
        for what, step in steps.items():
            times.setdefault(what, []).append(seconds(step))
        shutil.rmtree(there)
    rows = [row for what, took in times.items() for row in _rows(what, [float(size) for size in MEBIBYTES], took)]
    note = (
        f"One file with a split of 128×128 colour images, {IMAGE_BYTES // 1024} KiB per image. The file is in the page "
        "cache."
    )
    return Table("(l) Data handling by number of bytes", note, {"what": 0, "MiB": 0, "ms": 1, "slope": 2}, rows)


def _planning(folder: Path) -> Table:
    """Time how DVC reads and writes its files, for several numbers of entries (copies of the default VAE)."""
    from dvc.repo import Repo  # noqa: PLC0415
    from dvc.utils.serialize import load_yaml, modify_yaml  # noqa: PLC0415

    times: dict[str, list[float]] = {}
    clone = Clone(folder / "clone")
    vae = clone.parameters()["variants"]["vae"]
    whole = yaml.CSafeLoader((REPOSITORY / "dvc.lock").read_text(encoding="utf-8")).get_single_data()
    for count in ENTRIES:
        clone.change(variants={f"e{i}": vae | {"beta": 1 + i / 1000} for i in range(count)})
        made = {  # copies, since YAML would write a repeated object as an alias
            f"{kind}@e{i}": copy.deepcopy(whole["stages"][f"{kind}@vae"])
            for kind in ("train", "evaluate")
            for i in range(count)
        }
        lock = clone.folder / "dvc.lock"
        lock.unlink(missing_ok=True)

        def plan() -> None:
            with Repo(str(clone.folder)) as repo:
                len(repo.index.graph)

        def update() -> None:
            with modify_yaml(str(lock)) as content:  # noqa: B023
                content["stages"]["train@e0"]["cmd"] += " "

        times.setdefault("index and graph, no dvc.lock", []).append(cpu(plan))
        content = {"schema": "2.0", "stages": made}
        lock.write_text(yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False), encoding="utf-8")
        times.setdefault("params.yaml read, once for each stage's status", []).append(
            cpu(lambda: load_yaml(str(clone.folder / "params.yaml")))
        )
        times.setdefault("dvc.lock read by DVC", []).append(cpu(lambda: load_yaml(str(lock))))  # noqa: B023
        times.setdefault("dvc.lock read by libyaml", []).append(
            cpu(lambda: yaml.CSafeLoader(lock.read_text(encoding="utf-8")).get_single_data())  # noqa: B023
        )
        times.setdefault("dvc.lock updated by DVC, once a stage", []).append(cpu(update))
    rows = [row for what, took in times.items() for row in _rows(what, [float(count) for count in ENTRIES], took)]
    note = (
        "Milliseconds of CPU time. Each entry is like the default VAE and has two stages. DVC repeats the work of a "
        "row with “once” for each stage."
    )
    return Table(
        "(l) DVC's time by number of entries",
        note,
        {"what": 0, "entries": 0, "ms": 1, "slope": 2},
        rows,
    )


def _engine() -> Table:
    """Measure Dask's own CPU time for an empty task, with scheduler, client and all workers in one process."""
    from distributed import Client, LocalCluster  # noqa: PLC0415

    rows: list[list[Value]] = []
    for workers in (4, 64):
        with (
            LocalCluster(workers, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            work = lambda: client.gather(client.map(abs, range(TASKS), pure=False))  # noqa: E731
            work()
            rows.append([float(workers), 1000 * cpu(work) / TASKS])
    note = (
        f"Milliseconds of CPU time for each of {TASKS} empty tasks. Scheduler, caller and workers are in one process."
    )
    return Table("(l) Dask's cost of a task", note, {"workers": 0, "ms": 2}, rows)
