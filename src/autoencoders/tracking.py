"""MLflow as a projection of what is on disk: one run per training, live while it runs, complete once it is evaluated.

A run is recognised by the fingerprint of its training, so that projecting the same things again adds nothing. Several
projectors may be at work: who writes a run holds a lease on it, a tag of its own that says until when. Whoever wants
one writes that tag first and then looks for those of others: of two that come at once at most one goes on (Dijkstra
1965). Nothing that is undefined or not finite is ever logged as a number.
"""

import json
import logging
import math
import os
import re
import socket
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param
from mlflow.entities import Run as Found
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from autoencoders.champions import ALIAS, TASKS, Champion, rule

EXPERIMENT = "autoencoders"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow 3.17's page ignores it: see `page`
NOTE = "mlflow.note.content"  # the description of an experiment or a run, in Markdown
VIEW = "results"
RUNS = f"#/experiments/{{}}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"  # on any server
METRICS, PARAMETERS, LONGEST = 500, 100, 6000  # per call; MLflow takes at most 1000 and 100; characters of a parameter
REQUIREMENTS = ("mlflow", "numpy", "pydantic", "safetensors", "torch", "tqdm")  # what a model imports
PACKAGE = Path(__file__).parent
OPTIONS = (  # of a served model: `tasks.Options`, and which task
    ParamSpec("task", DataType.string, "reconstruct"),
    ParamSpec("seed", DataType.long, 0),
    ParamSpec("count", DataType.long, 1),
    ParamSpec("steps", DataType.long, 10),
    ParamSpec("codes", DataType.double, [], (-1,)),
)
LOSSES = ("autoencoder/train_loss", "autoencoder/validation_loss")  # of every model
LEASE = "lease."  # and whose it is: the beginning of a tag whose value says until when
SECONDS = 60.0  # that a lease is good for; renewed when half of them are over
RUNNING, KILLED, FINISHED, FAILED = "RUNNING", "KILLED", "FINISHED", "FAILED"  # as MLflow has them


@dataclass(frozen=True)
class Run:
    """What there is to know about one training so far."""

    name: str  # of the run and of its model: letters, digits, "-" and "_"
    about: str  # what it is, in Markdown
    training: str  # fingerprint of what the training depends on
    status: str  # RUNNING, KILLED, FINISHED or FAILED
    started: float  # seconds since the epoch
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    history: Sequence[Mapping[str, Any]]  # points: phase, step, time in seconds since the epoch, and its losses
    result: "Result | None" = None  # once it is evaluated


@dataclass(frozen=True)
class Result:
    """What came of a training."""

    fingerprint: str  # of the training, and of what it and the evaluation gave
    ended: float
    metrics: Mapping[str, float]  # by the names that MLflow shows
    figures: list[Path]
    weights: Path | None  # None: it diverged
    data: str  # name of the data set
    data_digest: str
    image: tuple[int, int, int]  # (C, H, W)


@dataclass
class Held:
    """A run that this projector has a lease on."""

    run_id: str
    logged: set[tuple[str, int]]  # points: name of the loss, step
    until: float


@dataclass
class Projector:
    """Writes runs to the MLflow at `uri`; without a server the artifacts go to the folder `local_artifacts`.

    Any exception of its methods may be one of MLflow's, of the network or of a database: what they were to do can be
    done again at any time, by this projector or by another one.
    """

    uri: str
    local_artifacts: Path
    held: dict[str, Held] = field(default_factory=dict)  # by the fingerprint of the training

    def __post_init__(self) -> None:
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # two lines a run that lead to the wrong page
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a server that is away costs seconds only
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        mlflow.set_tracking_uri(self.uri)
        self.host = _host()
        self.me = f"{LEASE}{self.host}.{os.getpid()}.{id(self):x}"
        self.number = ""

    def open(self, description: str, metrics: Sequence[str], saved: float = 0.0) -> None:
        """Have the experiment there, with today's description, a view of `metrics` as of the time `saved` (without any,
        of the losses, unless there is a view), and the kind if it has none.
        """
        if self.uri.startswith("sqlite:///"):  # two that make its tables at once leave half of them
            with FileLock(self.uri.removeprefix("sqlite:///") + ".lock"):
                MlflowClient().search_experiments(max_results=1)
        client, location = MlflowClient(), self.local_artifacts.as_uri() if self.uri.startswith("sqlite:") else None
        if client.get_experiment_by_name(EXPERIMENT) is None:
            try:
                client.create_experiment(EXPERIMENT, location)
            except MlflowException:
                if client.get_experiment_by_name(EXPERIMENT) is None:  # else another projector was first
                    raise
        experiment = mlflow.set_experiment(EXPERIMENT)
        self.number = str(experiment.experiment_id)
        link = f"[Show the runs]({RUNS.format(self.number)})"  # first: MLflow folds a description to its first line
        today, view = {NOTE: f"{link}\n\n{description}"}, f"mlflow.sharedViewState.{VIEW}"
        if metrics or view not in experiment.tags:  # the link leads nowhere without one
            today[view] = _view(metrics or LOSSES, saved)
        for key, value in (KIND | experiment.tags | today).items() - experiment.tags.items():
            client.set_experiment_tag(self.number, key, value)

    def project(self, run: Run) -> bool | None:
        """Have MLflow show `run` as it is now.

        Returns:
            Whether anything was to be done; None if another projector is at it.
        """
        try:
            held = self.held.get(run.training)
            if held is None:
                taken = self._take(run)
                if not isinstance(taken, Held):
                    return taken
                held = self.held[run.training] = taken
            self._renew(held)
            self._write(held, run)
        except BaseException:
            self.held.pop(run.training, None)  # what has arrived is not known
            raise
        if run.status != RUNNING:
            self.leave(run.training)
        return True

    def leave(self, training: str) -> None:
        """Give the lease on a run back, if there is one."""
        held = self.held.pop(training, None)
        if held is not None:
            MlflowClient().delete_tag(held.run_id, self.me)

    def crown(self, champion: Champion[str]) -> bool | None:
        """Have MLflow's registry give the alias `ALIAS` of the task to a champion, known by the fingerprint of its
        result, whose run is complete.

        Returns:
            Whether anything was to be done; None if the run is not there yet or another projector is at it.
        """
        client, task, fingerprint = MlflowClient(), champion.task, champion.candidate.what
        if _registered(task) == (rule(task), fingerprint):
            return False
        found = client.search_runs([self.number], f"tags.fingerprint = '{fingerprint}' and tags.complete = 'yes'")
        models = (
            client.search_logged_models([self.number], f"source_run_id = '{found[0].info.run_id}'") if found else []
        )
        if not models:
            return None
        run_id = found[0].info.run_id
        try:
            client.set_tag(run_id, self.me, _until())
            if self._others(client.get_run(run_id)):
                return None
            self._register(champion, run_id, models[0].model_id)
        finally:
            client.delete_tag(run_id, self.me)
        return True

    def _register(self, champion: Champion[str], run_id: str, model: str) -> None:
        """All of it can be done twice, and adds no second version of a run."""
        client, task = MlflowClient(), champion.task
        if not client.search_registered_models(f"name = '{task}'"):
            client.create_registered_model(task)
        client.update_registered_model(task, rule(task))
        versions = client.search_model_versions(f"name = '{task}' and run_id = '{run_id}'")
        if versions:
            version = versions[0]
        else:
            tags = {"fingerprint": champion.candidate.what, "entry": champion.candidate.entry}
            metric = TASKS[task]
            about = (
                f"{metric} on the validation split: {champion.value:.6g}, mean of the entry's seeds {champion.mean:.6g}"
            )
            version = client.create_model_version(
                task, f"models:/{model}", run_id, tags=tags, description=about, model_id=model
            )
        client.set_registered_model_alias(task, ALIAS, version.version)

    def _take(self, run: Run) -> Held | bool | None:
        """The run with a lease on it; False if nothing is left to do, None if another projector has one."""
        client = MlflowClient()
        unfinished = []
        for found in self._found(run):
            if _shows(found, run):
                return False
            if found.data.tags.get("complete") != "yes":
                unfinished.append(found)
        for found in unfinished:
            client.set_tag(found.info.run_id, self.me, _until())
            if self._others(client.get_run(found.info.run_id)):
                client.delete_tag(found.info.run_id, self.me)
                return None
            if _is_of(found, run):
                return Held(found.info.run_id, self._points(found), time.time() + SECONDS)
            client.delete_run(found.info.run_id)
        tags = {"training": run.training, "complete": "no", self.me: _until()}
        made = client.create_run(self.number, _milliseconds(run.started), tags, run.name).info.run_id
        meanwhile = [found for found in self._found(run) if found.info.run_id != made]
        if any(self._others(found) or _shows(found, run) for found in meanwhile):
            client.delete_run(made)
            return None
        return Held(made, set(), time.time() + SECONDS)

    def _found(self, run: Run) -> list[Found]:
        return list(MlflowClient().search_runs([self.number], f"tags.training = '{run.training}'"))

    def _others(self, found: Found) -> list[str]:
        """The leases that others have on a run: not over, and not of a process of this machine that is gone."""
        return [
            key
            for key, until in found.data.tags.items()
            if key.startswith(LEASE) and key != self.me and float(until) > time.time() and self._lives(key)
        ]

    def _lives(self, lease: str) -> bool:
        host, pid, _ = lease.removeprefix(LEASE).rsplit(".", 2)
        return host != self.host or psutil.pid_exists(int(pid))

    def _points(self, found: Found) -> set[tuple[str, int]]:
        client = MlflowClient()
        losses = [name for name in found.data.metrics if _is_point(name)]
        return {(name, point.step) for name in losses for point in client.get_metric_history(found.info.run_id, name)}

    def _renew(self, held: Held) -> None:
        if held.until - time.time() < SECONDS / 2:
            MlflowClient().set_tag(held.run_id, self.me, _until())
            held.until = time.time() + SECONDS

    def _write(self, held: Held, run: Run) -> None:
        """What the run does not have yet; all of it can be written twice."""
        client, run_id = MlflowClient(), held.run_id
        found = client.get_run(run_id)
        tags = {**run.tags, NOTE: run.about} | ({"fingerprint": run.result.fingerprint} if run.result else {})
        for key, value in tags.items() - found.data.tags.items():
            client.set_tag(run_id, key, value)
        texts = _texts(run.parameters)
        parameters = [Param(key, value) for key, value in texts.items() if key not in found.data.params]
        for start in range(0, len(parameters), PARAMETERS):
            client.log_batch(run_id, params=parameters[start : start + PARAMETERS])
        points = [point for point in _history(run) if (point.key, point.step) not in held.logged]
        for start in range(0, len(points), METRICS):
            client.log_batch(run_id, metrics=points[start : start + METRICS])
            held.logged |= {(point.key, point.step) for point in points[start : start + METRICS]}
            self._renew(held)
        if run.result is not None:
            self._complete(run_id, run, run.result)
        elif found.info.status != run.status:
            if run.status == RUNNING:
                client.update_run(run_id, RUNNING)
            else:
                client.set_terminated(run_id, run.status)

    def _complete(self, run_id: str, run: Run, result: Result) -> None:
        client = MlflowClient()
        for figure in result.figures:
            client.log_artifact(run_id, str(figure), "figures")
        source = CodeDatasetSource({"mlflow.source.name": "dvc stage download"})
        with mlflow.start_run(run_id=run_id):
            data = MetaDataset(source, result.data, result.data_digest)  # type: ignore[abstract]
            mlflow.log_input(data, context="training")
            for earlier in client.search_logged_models([self.number], f"source_run_id = '{run_id}'"):
                client.delete_logged_model(earlier.model_id)  # of a projection that broke off
            model = None if result.weights is None else _write_model(run.name, result.weights, result.image)
        end = _milliseconds(result.ended)
        metrics = [Metric(name, value, end, 0, model_id=model) for name, value in result.metrics.items()]
        metrics = [metric for metric in metrics if math.isfinite(metric.value)]
        for start in range(0, len(metrics), METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + METRICS])
        client.set_terminated(run_id, run.status, end)
        client.set_tag(run_id, "complete", "yes")


def page(uri: str) -> str:
    """The address of the runs' table; for a database, where `mlflow ui` shows it by default.

    A click on an experiment does not lead there: MLflow 3.17 goes by what the browser was used for last, or else GenAI.
    """
    experiment = MlflowClient(uri).get_experiment_by_name(EXPERIMENT)
    server = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{server}/{RUNS.format(experiment.experiment_id if experiment else 0)}"


def _registered(task: str) -> tuple[str | None, str | None] | None:
    """What MLflow says of a task: the rule, and the fingerprint of its champion's result."""
    client = MlflowClient()
    found = client.search_registered_models(f"name = '{task}'")
    if not found or ALIAS not in found[0].aliases:
        return None
    version = client.get_model_version(task, found[0].aliases[ALIAS])
    return found[0].description, version.tags.get("fingerprint")


def _shows(found: Found, run: Run) -> bool:
    """Whether nothing of `run` is left to be written."""
    tags = found.data.tags
    return tags.get("complete") == "yes" and (run.result is None or tags["fingerprint"] == run.result.fingerprint)


def _is_of(found: Found, run: Run) -> bool:
    """Whether what a broken-off projection has written is of this run: MLflow lets no parameter be changed."""
    logged, result = found.data.params, found.data.tags.get("fingerprint")
    if result is not None and (run.result is None or result != run.result.fingerprint):
        return False
    return all(logged.get(key, value) == value for key, value in _texts(run.parameters).items())


def _view(metrics: Sequence[str], saved: float) -> str:
    """A saved view of the runs' page: MLflow itself shows no metric in the table, and 10 runs in the charts."""
    state = {"selectedColumns": [f"metrics.`{name}`" for name in metrics], "runsHiddenMode": "SHOW_ALL"}
    return json.dumps({"name": VIEW, "createdAt": _milliseconds(saved), "state": json.dumps(state)})


def _history(run: Run) -> list[Metric]:
    """The losses as "phase/loss" at the step and time of a point."""
    metrics = []
    for row in run.history:
        at = _milliseconds(row["time"])
        losses = {name: value for name, value in row.items() if name not in {"phase", "step", "time"}}
        metrics += [Metric(f"{row['phase']}/{name}", value, at, row["step"]) for name, value in losses.items()]
    return [metric for metric in metrics if metric.value is not None and math.isfinite(metric.value)]


def _is_point(name: str) -> bool:
    """Whether a metric's name is that of a loss of a phase."""
    return bool(re.search(r"/(train|validation)_", name)) and not name.startswith(("test/", "validation/", "cost/"))


def _texts(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value)[:LONGEST] for key, value in parameters.items()}


def _host() -> str:
    """Where a process number means a process: a machine, and on Linux the container; two may have one name."""
    processes = Path("/proc/self/ns/pid")
    inside = f"-{processes.stat().st_ino:x}" if processes.exists() else ""
    return re.sub(r"[^A-Za-z0-9-]", "-", f"{socket.gethostname()}-{uuid.getnode():x}{inside}")


def _until() -> str:
    return f"{time.time() + SECONDS:.0f}"


def _write_model(name: str, weights: Path, image: tuple[int, int, int]) -> str:
    """The model as code plus safetensors: loading it needs no pickle, logging it does not import torch. Its id."""
    images = TensorSpec(np.dtype(np.float32), (-1, *image))
    with warnings.catch_warnings(record=True):  # hints to write type hints, which the signature makes superfluous
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(PACKAGE / "mlflow_model.py"),
            artifacts={"weights": str(weights)},
            code_paths=[str(PACKAGE)],
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
            signature=ModelSignature(Schema([images]), Schema([images]), ParamSchema(list(OPTIONS))),
        )
    return str(logged.model_id)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
