"""Kills and restarts of an MLflow server while trainings run."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient

from aelab.core import disk
from faults.rig import ENTRIES, Rig
from faults.table import Counts
from tests.support.servers import Server, serving

TRAINS = tuple(f"train@{entry}" for entry in ENTRIES)


def outages(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Kill and restart the server every few seconds while the pipeline runs.

    No training may fail, and MLflow must have each point of the learning curves exactly once.
    """
    rng = random.Random(f"{seed} tracker")
    rig = Rig(folder, steps=2500, seeds=2)
    lost = Counts("tracker killed and restarted: trainings lost", "no training is lost", count)
    points = Counts(
        "tracker killed and restarted: points lost or doubled", "no point of a curve is lost or doubled", count
    )
    rounds = 0
    while lost.tried < count:
        rounds += 1
        rig.forget(*TRAINS, "report")
        with serving(folder.parent / f"server{rounds}") as server:
            outages = _disturbed(rig, server, rng, count - lost.tried)
            rig.must(rig.start("python", "-m", "pipeline.reporting.track", MLFLOW_TRACKING_URI=server.uri))
            wrong, differs = compare(rig, server.uri), rig.differs()
        for _ in range(outages):
            lost.add(not differs, f"{differs}")
            points.add(not wrong, f"{wrong}")
    lost.remark = points.remark = f"in {rounds} runs of the pipeline, 8 trainings each"
    yield lost
    yield points


def _disturbed(rig: Rig, server: Server, rng: random.Random, most: int) -> int:
    """Run the pipeline, and meanwhile kill and restart the server up to `most` times. Return the number of kills."""
    process = rig.start("python", "-m", "pipeline.runner.repro", "--jobs", "2", MLFLOW_TRACKING_URI=server.uri)
    outages = 0
    while process.poll() is None and outages < most:
        time.sleep(rng.uniform(1, 5))
        server.kill()
        outages += 1
        time.sleep(rng.uniform(0, 4))
        server.start()
    rig.must(process)
    return outages


def compare(rig: Rig, uri: str) -> list[str]:
    """Compare MLflow's runs with the learning curves in `provenance/train`.

    Returns:
        A description of each difference: a run that is missing, doubled or unfinished, or a metric with wrong points.
    """
    client, wrong = MlflowClient(uri), list[str]()
    experiment = client.get_experiment_by_name("autoencoders")
    if experiment is None:
        return ["the experiment is missing"]
    for file in sorted((rig.project.folder / "provenance/train").glob("*/seed*.jsonl")):
        name = f"digits-{file.parent.name}-{file.stem}"
        runs = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
        if [run.info.status for run in runs] != ["FINISHED"]:
            wrong.append(f"{name}: {[run.info.status for run in runs]}")
            continue
        expected: dict[str, list[tuple[int, float, int]]] = {}
        for point in disk.read_lines(file):
            for loss, value in point.items():
                if loss not in {"phase", "step", "time", "seconds"}:
                    at = point["step"], value, round(point["time"] * 1000)
                    name_of = loss if loss.startswith("system/") else f"{point['phase']}/{loss}"
                    expected.setdefault(name_of, []).append(at)
        for loss, points in expected.items():
            history = client.get_metric_history(runs[0].info.run_id, loss)
            found = sorted((point.step, point.value, point.timestamp) for point in history)
            if found != sorted(points):
                wrong.append(f"{name} {loss}: {len(found)} points, {len(points)} on disk")
    return wrong
