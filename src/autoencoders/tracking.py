"""MLflow as a projection of what is on disk: one run per trained model, written once per result.

A run is recognised by its fingerprint, so that projecting the same results again adds nothing. Nothing that is
undefined or not finite is ever logged as a number.
"""

import json
import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

EXPERIMENT = "autoencoders"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow 3.17's page ignores it: see `page`
NOTE = "mlflow.note.content"  # the description of an experiment or a run, in Markdown
VIEW = "results"
RUNS = f"#/experiments/{{}}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"  # on any server
METRICS, PARAMETERS = 500, 100  # per call; MLflow takes at most 1000 and 100
REQUIREMENTS = ("mlflow", "numpy", "pydantic", "safetensors", "torch", "tqdm")  # what a logged model imports
PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """What there is to know about one trained model."""

    name: str  # of the run and of its model: letters, digits, "-" and "_"
    about: str  # what it is, in Markdown
    fingerprint: str  # of the data, code, parameters and results
    started: float  # seconds since the epoch
    ended: float
    diverged: bool
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    history: Sequence[Mapping[str, Any]]  # points: phase, step, time in seconds since the epoch, and its losses
    metrics: Mapping[str, float]  # by the names that MLflow shows
    figures: list[Path]
    weights: Path
    data: str  # name of the data set
    data_digest: str
    image: tuple[int, int, int]  # (C, H, W)


def project(runs: list[Run], uri: str, local_artifacts: Path, description: str) -> int:
    """Write those of `runs` to the MLflow at `uri` that it does not hold yet; returns how many that were.

    Without a server the artifacts go to the folder `local_artifacts`; a server has a place of its own for them.
    `description` is the experiment's, in Markdown; it replaces what someone may have written there.
    """
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # two lines a run, and they lead to the wrong page
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is away costs seconds, not minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    mlflow.set_tracking_uri(uri)
    client = MlflowClient()
    location = local_artifacts.as_uri() if uri.startswith("sqlite:") else None
    experiment = _experiment(client, location, description, _view(runs))
    found = mlflow.search_runs([experiment], output_format="list")
    tagged = {run.data.tags["fingerprint"]: run for run in found if "fingerprint" in run.data.tags}
    written = 0
    for run in runs:
        earlier = tagged.get(run.fingerprint)
        if earlier and earlier.data.tags["complete"] == "yes":
            continue
        if earlier:  # a projection broke off in the middle of it
            client.delete_run(earlier.info.run_id)
        _write(client, experiment, run)
        written += 1
    return written


def page(uri: str) -> str:
    """The address of the runs' table; for a database, where `mlflow ui` shows it by default.

    A click on an experiment does not lead there: MLflow 3.17 goes by what the browser was used for last, or else GenAI.
    """
    experiment = MlflowClient(uri).get_experiment_by_name(EXPERIMENT)
    server = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{server}/{RUNS.format(experiment.experiment_id if experiment else 0)}"


def _experiment(client: MlflowClient, location: str | None, description: str, view: str) -> str:
    """The experiment's id. One that is there already gets today's description and view, and the kind if it has none."""
    if client.get_experiment_by_name(EXPERIMENT) is None:
        client.create_experiment(EXPERIMENT, location)
    experiment = mlflow.set_experiment(EXPERIMENT)
    number = str(experiment.experiment_id)
    link = f"[Show the runs]({RUNS.format(number)})"  # first, since MLflow folds a description to its first line
    today = {NOTE: f"{link}\n\n{description}", f"mlflow.sharedViewState.{VIEW}": view}
    for key, value in (KIND | experiment.tags | today).items() - experiment.tags.items():
        client.set_experiment_tag(number, key, value)
    return number


def _view(runs: list[Run]) -> str:
    """A saved view of the runs' page: MLflow itself shows no metric in the table, and 10 runs in the charts."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    state = {"selectedColumns": [f"metrics.`{name}`" for name in names], "runsHiddenMode": "SHOW_ALL"}
    saved = _milliseconds(max((run.ended for run in runs), default=0))
    return json.dumps({"name": VIEW, "createdAt": saved, "state": json.dumps(state)})


def _write(client: MlflowClient, experiment: str, run: Run) -> None:
    tags = {**run.tags, NOTE: run.about, "fingerprint": run.fingerprint, "complete": "no"}
    run_id = client.create_run(experiment, _milliseconds(run.started), tags, run.name).info.run_id
    parameters = [Param(key, str(value)) for key, value in run.parameters.items()]
    for start in range(0, len(parameters), PARAMETERS):
        client.log_batch(run_id, params=parameters[start : start + PARAMETERS])
    for figure in run.figures:
        client.log_artifact(run_id, str(figure), "figures")
    source = CodeDatasetSource({"mlflow.source.name": "dvc stage download"})
    with mlflow.start_run(run_id=run_id):
        data = MetaDataset(source, run.data, run.data_digest)  # type: ignore[abstract]
        mlflow.log_input(data, context="training")
        metrics = _metrics(run, None if run.diverged else _write_model(run))
        for start in range(0, len(metrics), METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + METRICS])
    client.set_terminated(run_id, "FAILED" if run.diverged else "FINISHED", _milliseconds(run.ended))
    client.set_tag(run_id, "complete", "yes")


def _metrics(run: Run, model: str | None) -> list[Metric]:
    """The final metrics, also of the logged `model`, and the losses as "phase/loss" at the step and time of a point."""
    end = _milliseconds(run.ended)
    metrics = [Metric(name, value, end, 0, model_id=model) for name, value in run.metrics.items()]
    for row in run.history:
        time = _milliseconds(row["time"])
        losses = {name: value for name, value in row.items() if name not in {"phase", "step", "time"}}
        metrics += [Metric(f"{row['phase']}/{name}", value, time, row["step"]) for name, value in losses.items()]
    return [metric for metric in metrics if metric.value is not None and math.isfinite(metric.value)]


def _write_model(run: Run) -> str:
    """The model as code plus safetensors: loading it needs no pickle, logging it does not import torch. Its id."""
    images = TensorSpec(np.dtype(np.float32), (-1, *run.image))
    with warnings.catch_warnings(record=True):  # hints to write type hints, which the signature makes superfluous
        logged = mlflow.pyfunc.log_model(
            name=run.name,
            python_model=str(PACKAGE / "served.py"),
            artifacts={"weights": str(run.weights)},
            code_paths=[str(PACKAGE)],
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
            signature=ModelSignature(Schema([images]), Schema([images])),
        )
    return str(logged.model_id)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
