"""(l) What the design costs as it grows: MLflow's runs, bytes of data, entries in DVC's files and in the report, an
engine's tasks.

A slope is that of the time in a double-logarithmic plot, from one row to the next, as in (e). What computes is given in
CPU seconds, what waits for a disk in seconds.
"""

import copy
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy
import yaml  # type: ignore[import-untyped]
from mlflow import MlflowClient

from autoencoders import storage, tracking
from benchmarks.dag import PARALLEL, REPOSITORY, Clone
from benchmarks.measure import Table, Value, seconds
from faults.servers import postgresql

RUNS, MEBIBYTES, ENTRIES, TASKS = (100, 1000, 10_000), (64, 128, 256, 512), (10, 30, 100), 1000
RESULTS = (10, 100, 334)  # entries of 3 seeds in the report
IMAGE_BYTES = 3 * 128 * 128
METRICS, POINTS, PARAMETERS, TAGS = 60, 110, 40, 30  # of a run: an estimate


def run() -> list[Table]:
    """Five axes."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with postgresql(place / "postgresql") as server:
            tracked = [_tracking(f"sqlite:///{place / 'mlflow.db'}", place), _tracking(server, place)]
        return [*tracked, _data(place), _planning(place), _report(place), _engine()]


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process that `work` takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def _rows(what: str, sizes: list[float], times: list[float]) -> list[list[Value]]:
    """A row for each size, with the slope from the one before."""
    slopes = [None] + [
        math.log(max(b, 1e-9) / max(a, 1e-9)) / math.log(y / x)
        for a, b, x, y in zip(times, times[1:], sizes, sizes[1:], strict=False)
    ]
    return [[what, size, 1000 * took, slope] for size, took, slope in zip(sizes, times, slopes, strict=True)]


def _tracking(server: str, folder: Path) -> Table:
    """A database filled with made-up runs: no data sets or models, and points at the same times in each."""
    engine = sqlalchemy.create_engine(server)
    projector = tracking.Projector(server, folder / f"{engine.name} artifacts")
    projector.open("", [])
    client, times, sizes = MlflowClient(), dict[str, list[float]](), list[float]()
    page: dict[str, Any] = {"experiment_ids": [projector.number], "max_results": 100}
    filled = 0
    for count in RUNS:
        _fill(engine, int(projector.number), filled, count)
        filled = count
        sizes.append(_bytes(engine) / count)
        run = tracking.Run("new", "", f"new-{count}", "KILLED", time.time(), {}, {},
                           [{"phase": "autoencoder", "step": i, "time": time.time(), "train_loss": 1.0}
                            for i in range(POINTS)])  # fmt: skip
        asked: dict[str, Callable[[], object]] = {
            "ours: a run by its fingerprint": lambda: client.search_runs([projector.number], "tags.training = 't7'"),
            "ours: a champion's run": lambda: client.search_runs(
                [projector.number], "tags.fingerprint = 'f7' and tags.complete = 'yes'"
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
        f"Filled by SQL with {METRICS} metrics, 2 curves of {POINTS} points, {PARAMETERS} parameters, {TAGS} "
        f"tags a run; {sizes[-1] / 1024:.0f} KiB a run in the last. Medians of 3, warm; one run is logged once."
    )
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[engine.name]
    return Table(f"(l) MLflow on {name} against runs", note, {"what": 0, "runs": 0, "ms": 1, "slope": 2}, rows)


def _fill(engine: sqlalchemy.Engine, experiment: int, first: int, end: int) -> None:
    """The runs `first` to `end`, as MLflow would have written them."""
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    curves = [(f"autoencoder/{name}", step) for name in ("train_loss", "validation_loss") for step in range(POINTS)]
    points = [*((f"test/m{k}", 0) for k in range(METRICS)), *curves]
    latest = [*points[:METRICS], curves[POINTS - 1], curves[-1]]
    parameters = [(f"key{k}", "value") for k in range(PARAMETERS)]
    versions = [(f"version.{k}", "1") for k in range(TAGS - 3)]
    with engine.begin() as connection:
        for i in range(first, end):
            run = {"run_uuid": f"{i:032x}"}
            own = run | {"name": f"r{i}", "status": "FINISHED", "start_time": i, "end_time": i + 1, "user_id": "u",
                         "source_type": "UNKNOWN", "source_name": "", "entry_point_name": "", "source_version": "",
                         "lifecycle_stage": "active", "artifact_uri": "", "experiment_id": experiment}  # fmt: skip
            value = run | {"value": float(i * 7919 % 10007), "is_nan": False}
            tags = [("training", f"t{i}"), ("fingerprint", f"f{i}"), ("complete", "yes"), *versions]
            written: dict[str, list[dict[str, Any]]] = {
                "runs": [own],
                "metrics": [value | {"key": key, "step": step, "timestamp": step} for key, step in points],
                "latest_metrics": [value | {"key": key, "step": step, "timestamp": step} for key, step in latest],
                "params": [run | {"key": key, "value": text} for key, text in parameters],
                "tags": [run | {"key": key, "value": text} for key, text in tags],
            }
            for table, rows in written.items():
                connection.execute(sqlalchemy.insert(tables.tables[table]), rows)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sqlalchemy.text("ANALYZE"))  # what a server does by itself in time


def _bytes(engine: sqlalchemy.Engine) -> int:
    """The size of the database."""
    if engine.name == "sqlite":
        return Path(str(engine.url.database)).stat().st_size
    with engine.connect() as connection:
        return int(connection.execute(sqlalchemy.text("SELECT pg_database_size('postgres')")).scalar_one())


def _data(folder: Path) -> Table:
    """What reads or writes every byte."""
    from dvc.fs import LocalFileSystem  # noqa: PLC0415
    from dvc_data.hashfile.hash import file_md5  # noqa: PLC0415

    times: dict[str, list[float]] = {}
    for size in MEBIBYTES:
        count, there = size * 2**20 // IMAGE_BYTES, folder / f"{size}"
        image = np.random.default_rng(0).integers(0, 256, (64, 3, 128, 128), np.uint8)
        pieces = (image[: min(64, count - start)] for start in range(0, count, 64))
        path = there / "images.npy"
        steps: dict[str, Callable[[], object]] = {
            "write": lambda: storage.write(path, (count, 3, 128, 128), pieces),  # noqa: B023
            "seal (SHA-256)": lambda: storage.seal(there),  # noqa: B023
            "check, before every stage": lambda: storage.check(there),  # noqa: B023
            "DVC's md5": lambda: file_md5(str(path), LocalFileSystem()),  # noqa: B023
            "copy": lambda: shutil.copyfile(path, there / "copy"),  # noqa: B023
            "link": lambda: os.link(path, there / "link"),  # noqa: B023
        }
        for what, step in steps.items():
            times.setdefault(what, []).append(seconds(step))
        shutil.rmtree(there)
    rows = [row for what, took in times.items() for row in _rows(what, [float(size) for size in MEBIBYTES], took)]
    note = (
        f"A split of 128×128 colour images in one file, {IMAGE_BYTES // 1024} KiB an image; read from the page cache."
    )
    return Table("(l) Steps against bytes", note, {"what": 0, "MiB": 0, "ms": 1, "slope": 2}, rows)


def _planning(folder: Path) -> Table:
    """DVC's own files, with entries like the default VAE."""
    from dvc.repo import Repo  # noqa: PLC0415
    from dvc.utils.serialize import load_yaml, modify_yaml  # noqa: PLC0415

    times: dict[str, list[float]] = {}
    clone = Clone(folder / "clone")
    vae = clone.parameters()["variants"]["vae"]
    whole = yaml.CSafeLoader((REPOSITORY / "dvc.lock").read_text(encoding="utf-8")).get_single_data()
    for count in ENTRIES:
        clone.change(variants={f"e{i}": vae | {"beta": 1 + i / 1000} for i in range(count)})
        made = {
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
        content = {
            "schema": "2.0",
            "stages": made,
        }  # copies: YAML would write one object that is there twice as an alias
        lock.write_text(yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False), encoding="utf-8")
        times.setdefault("params.yaml read, once a stage's status", []).append(
            cpu(lambda: load_yaml(str(clone.folder / "params.yaml")))
        )
        times.setdefault("dvc.lock read by DVC", []).append(cpu(lambda: load_yaml(str(lock))))  # noqa: B023
        times.setdefault("dvc.lock read by libyaml", []).append(
            cpu(lambda: yaml.CSafeLoader(lock.read_text(encoding="utf-8")).get_single_data())  # noqa: B023
        )
        times.setdefault("dvc.lock updated by DVC, once a stage", []).append(cpu(update))
    rows = [row for what, took in times.items() for row in _rows(what, [float(count) for count in ENTRIES], took)]
    note = "CPU milliseconds; an entry is two stages, like those of the default VAE."
    return Table("(l) DVC's files against entries", note, {"what": 0, "entries": 0, "ms": 1, "slope": 2}, rows)


def _report(folder: Path) -> Table:
    """The report on copies of one entry: three seeds of a VAE on the digits, each with its figures."""
    clone = Clone(folder / "results", seeds=[0, 1, 2], **{"training.steps": 300, "training.points": 100})
    clone.keep_variants(["vae"])
    clone.change(**{"variants.vae.training": {}})
    clone.time(*PARALLEL)
    lock = clone.folder / "dvc.lock"
    whole = yaml.CSafeLoader(lock.read_text(encoding="utf-8")).get_single_data()
    vae, sizes, times = clone.parameters()["variants"]["vae"], list[float](), dict[str, list[float]]()
    for count in RESULTS:
        names = [f"e{i}" for i in range(count)]
        clone.change(variants={name: vae | {"beta": 1 + i / 1000} for i, name in enumerate(names)})
        stages = {name: stage for name, stage in whole["stages"].items() if not name.endswith("@vae")}
        for name in names:
            for kind in ("train", "evaluate"):
                text = yaml.dump(whole["stages"][f"{kind}@vae"], Dumper=yaml.CSafeDumper)
                stages[f"{kind}@{name}"] = yaml.CSafeLoader(re.sub(r"\bvae\b(?!\.py)", name, text)).get_single_data()
            for place in ("models", "evaluation", "provenance/train", "provenance/evaluate"):
                for found in (clone.folder / place).glob("vae*"):
                    copied = found.with_name(found.name.replace("vae", name))
                    if found.is_dir():
                        shutil.copytree(found, copied, dirs_exist_ok=True)
                    else:
                        shutil.copyfile(found, copied)
        lock.write_text(yaml.dump({"schema": "2.0", "stages": stages}, Dumper=yaml.CSafeDumper), encoding="utf-8")
        code = "from pipeline import params, report; report.write(params.load())"
        times.setdefault("the report", []).append(clone.time(sys.executable, "-c", code))
        times.setdefault("all runs to MLflow, new", []).append(clone.time(sys.executable, "-m", "pipeline.track"))
        times.setdefault("all runs to MLflow, there", []).append(clone.time(sys.executable, "-m", "pipeline.track"))
        sizes.append((clone.folder / "reports/comparison.html").stat().st_size / 2**20)
        shutil.rmtree(clone.folder / "mlartifacts", ignore_errors=True)
    rows = [row for what, took in times.items() for row in _rows(what, [float(count) for count in RESULTS], took)]
    shown = ", ".join(f"{size:.1f} MiB" for size in sizes)
    note = f"Seconds of the whole command; an entry has 3 seeds. The page, a single file, is {shown}."
    return Table("(l) The report against entries", note, {"what": 0, "entries": 0, "ms": 0, "slope": 2}, rows)


def _engine() -> Table:
    """Dask's own cost of a task that does nothing: scheduler, caller and 64 workers in one process."""
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
    note = f"CPU milliseconds for each of {TASKS} tasks, with everything in one process."
    return Table("(l) The engine's own cost of a task", note, {"workers": 0, "ms": 2}, rows)
