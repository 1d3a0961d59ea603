"""MLflow as a projection of what is on disk: one run per training, live while it runs, complete once it is evaluated.

The fingerprint of its training names a run, so that projecting the same things twice adds nothing. One process writes
at a time: a lock file on this machine sees to that. A run without the tag `complete` is unfinished, and the next
projection completes or replaces the run. No number that is undefined or not finite is ever logged.
"""

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
import numpy as np
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.schema import TensorDatasetSchema
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, LifecycleStage, Metric, Param, RunTag
from mlflow.entities import Run as Found
from mlflow.models import ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from aelab.core.errors import UserError
from aelab.inference import mlflow_store
from aelab.report.champions import ALIAS, NAME, TASKS, Champion, rule

NOTE = "mlflow.note.content"  # the description of an experiment or a run, in Markdown
VIEW = "results"
SAVED = f"mlflow.sharedViewState.{VIEW}"  # the experiment's tag that has the view
DATASET = "dataset.name"  # a parameter of every run
GROUP = "group"  # a tag of every run: the seeds of one entry on one data set share it
MODEL_TAGS = (GROUP, "entry", "seed", "symptoms")  # of a run that its model has, too
SHOWN = (DATASET, "seed")  # in a column of its own, in the run's name
PORT = 5000  # of `mlflow ui`, unless another one is wanted
HANDFUL = 5  # parameters in view
RECENT = 500  # runs that are looked at for what differs
RUNS = f"#/experiments/{{}}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"  # on any server
LONGEST = 6000  # characters of a parameter, all that MLflow takes
REQUIREMENTS = ("mlflow", "numpy", "pydantic", "safetensors", "torch", "tqdm")  # what a model imports
PACKAGE = Path(__file__).parents[1]
OPTIONS = (  # of a served model: `tasks.Options`, and which task
    ParamSpec("task", DataType.string, "reconstruct"),
    ParamSpec("seed", DataType.long, 0),
    ParamSpec("count", DataType.long, 1),
    ParamSpec("steps", DataType.long, 10),
    ParamSpec("codes", DataType.double, [], (-1,)),
    ParamSpec("by", DataType.string, ""),
)
OURS = {"written_by": "aelab"}  # a registered model
LOSSES = ("autoencoder/train_loss", "autoencoder/validation_loss")  # of every model
WAIT = 30.0  # seconds for another process to finish the run that it writes
SOURCE = CodeDatasetSource({"mlflow.source.name": "dvc stage download"})  # of the images
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
    evaluated: "Evaluated | None" = None


@dataclass(frozen=True)
class Evaluated:
    """What a training and its evaluation have left."""

    fingerprint: str  # of the training, and of what it and the evaluation gave
    ended: float
    metrics: Mapping[str, float]  # by the names that MLflow shows
    figures: list[Path]
    weights: Path | None  # None: the training diverged
    data: str  # name of the data set
    digests: Mapping[str, str]  # of its splits: "train", "validation", "test"
    image: tuple[int, int, int]  # (C, H, W)
    scores: Path | None = None  # of validation images, which `aelab score` sets an image's beside


@dataclass
class Projector:
    """Writes runs to the MLflow at `uri`.

    A `UserError` of its methods says what waiting does not mend, and what does. Any other exception may be one of
    MLflow's, of the network or of a database. Every method can be called again at any time, by this projector or by
    another one.

    Args:
        uri: a server's address, or "sqlite:///" and a path.
        local_artifacts: the folder of all artifacts where there is no server.
        lock: a file; of the projectors that share one, one writes at a time.
    """

    uri: str
    local_artifacts: Path
    lock: Path
    experiment_id: str = ""
    logged: dict[str, int] = field(default_factory=dict)  # by the id of a run: how many points MLflow has

    def __post_init__(self) -> None:
        mlflow_store.prepare()
        mlflow.set_tracking_uri(self.uri)

    def open(self, description: str) -> None:
        """Create the experiment or update its description."""
        name = mlflow_store.experiment()
        with self._alone():
            mlflow_store.check(self.uri)
            client = MlflowClient()
            if there := client.get_experiment_by_name(name):
                self._check(there)
            elif self.uri.startswith("sqlite:"):
                client.create_experiment(name, self.local_artifacts.as_uri())
            experiment = mlflow.set_experiment(name)
            self.experiment_id = str(experiment.experiment_id)
            link = f"[Show the runs]({RUNS.format(self.experiment_id)})"  # MLflow folds a description to its first line
            self._tag(experiment, NOTE, f"{link}\n\n{description}")
            if SAVED not in experiment.tags:  # the link leads nowhere without one
                self._tag(experiment, SAVED, _view([], LOSSES, 0.0))

    def show(self, metrics: Sequence[str], saved: float) -> None:
        """Save a view of the runs as of the time `saved`: those `metrics` there are, data set, entry, what differs."""
        with self._alone():
            client = MlflowClient()
            runs = client.search_runs([self.experiment_id], max_results=RECENT)
            groups = {self._group(run) for run in runs} - {""}
            there = [name for name in metrics if any(name in run.data.metrics for run in runs)]
            view = _view(_differing(runs), there or LOSSES, saved, groups)
            self._tag(client.get_experiment(self.experiment_id), SAVED, view)

    def _group(self, run: Found) -> str:
        """The group of a run; one that an earlier release has written gets it now."""
        tags, params = run.data.tags, run.data.params
        if GROUP not in tags and "entry" in tags and DATASET in params:
            tags[GROUP] = f"{params[DATASET]}-{tags['entry']}"
            MlflowClient().set_tag(run.info.run_id, GROUP, tags[GROUP])
        return str(tags.get(GROUP, ""))

    def _tag(self, experiment: Experiment, key: str, value: str) -> None:
        if experiment.tags.get(key) != value:
            MlflowClient().set_experiment_tag(self.experiment_id, key, value)

    def _check(self, there: Experiment) -> None:
        """Look whether runs can be written to an experiment.

        Raises:
            UserError: it is deleted, or its artifacts belong to the folder that the project and its database were in.
        """
        if there.lifecycle_stage == LifecycleStage.DELETED:
            raise mlflow_store.deleted(self.uri, there.experiment_id)
        database, here = mlflow_store.file_of(self.uri), self.local_artifacts.resolve()
        at = urlsplit(there.artifact_location)
        location = Path(unquote(at.path)).resolve()
        own = database is not None and database.resolve().parent == here.parent and at.scheme in {"", "file"}
        if own and location.name == here.name and location != here:
            msg = (
                f"{database} has its artifacts in {location}, since the project was moved or copied with it: "
                f"`rm -rf {quote(str(database))} {quote(str(here))}`, then `make track` writes all that is on disk "
                "anew; other experiments, and runs of which nothing is on disk any more, go with the database"
            )
            raise UserError(msg)

    def project(self, run: Run) -> bool:
        """Have MLflow show `run` as it is now; returns whether there was anything to write."""
        with self._alone():
            client = MlflowClient()
            there = client.search_runs([self.experiment_id], f"tags.training = '{run.training}'")
            if any(_shows(found, run) for found in there):
                return False
            unfinished = [found for found in there if not _is_complete(found)]
            begun = next((found for found in unfinished if _is_of(found, run)), None)
            for found in unfinished:
                if found is not begun:
                    client.delete_run(found.info.run_id)
            if begun is None:
                tags = {"training": run.training, "complete": "no"}
                begun = client.create_run(self.experiment_id, _milliseconds(run.started), tags, run.name)
            self._write(begun, run)
            return True

    def promote(self, champion: Champion) -> str:
        """Have MLflow's registry give the alias `ALIAS` to a champion; returns what there is to say, or "".

        Nothing happens before the champion's run is complete. No run gets a second version. A registered model without
        a fingerprint of ours is somebody else's, and stays as it is.
        """
        with self._alone():
            client, name = MlflowClient(), champion.name
            complete = f"tags.fingerprint = '{champion.candidate.fingerprint}' and tags.complete = 'yes'"
            runs = client.search_runs([self.experiment_id], complete, max_results=1)
            if not runs:
                return ""
            versions = list(client.search_model_versions(f"name = '{name}'"))
            if not (there := client.search_registered_models(f"name = '{name}'")):
                client.create_registered_model(name, OURS)
            elif not there[0].tags.items() >= OURS.items() and not any("fingerprint" in each.tags for each in versions):
                return f"models:/{name} is somebody else's and stays as it is: {NAME} gives those of here other names"
            client.update_registered_model(name, rule(champion))
            numbers = [each.version for each in versions if each.run_id == runs[0].info.run_id]
            number = numbers[0] if numbers else self._create_version(champion, runs[0].info.run_id)
            if client.get_registered_model(name).aliases.get(ALIAS) == number:
                return ""
            client.set_registered_model_alias(name, ALIAS, number)
            return f"models:/{name}@{ALIAS} is now a model of {champion.candidate.entry}"

    def _create_version(self, champion: Champion, run_id: str) -> str:
        client, candidate = MlflowClient(), champion.candidate
        (model,) = client.search_logged_models([self.experiment_id], f"source_run_id = '{run_id}'")
        metric = f"{TASKS[champion.task]} on the validation split: {champion.value:.6g}"
        created = client.create_model_version(
            champion.name,
            model.model_uri,
            run_id,
            tags={"fingerprint": candidate.fingerprint, "entry": candidate.entry},
            description=f"{metric}, mean of the entry's seeds {champion.mean:.6g}",
            model_id=model.model_id,
        )
        return str(created.version)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process writes.

        Raises:
            TimeoutError: another process has been writing all the time.
            UserError: waiting does not mend what went wrong.
        """
        try:
            with mlflow_store.explained(self.uri), FileLock(self.lock, timeout=WAIT):
                yield
        except Timeout as error:
            msg = f"another process has been writing for {WAIT:.0f} s; it holds {self.lock}"
            raise TimeoutError(msg) from error

    def _write(self, found: Found, run: Run) -> None:
        """Write what the run does not have yet.

        A point that is written twice is one point: MLflow drops a metric of the same name, step, time and value.
        """
        client, run_id = MlflowClient(), found.info.run_id
        tags = {**run.tags, NOTE: run.about} | ({"fingerprint": run.evaluated.fingerprint} if run.evaluated else {})
        client.log_batch(
            run_id,
            _points(run.history[self.logged.get(run_id, 0) :]),
            [Param(*each) for each in _texts(run.parameters).items() - found.data.params.items()],
            [RunTag(*each) for each in tags.items() - found.data.tags.items()],
        )
        self.logged[run_id] = len(run.history)
        if run.evaluated is not None:
            self._complete(run_id, run, run.evaluated)
        elif run.status != found.info.status:
            if run.status == RUNNING:
                client.update_run(run_id, RUNNING)
            else:
                client.set_terminated(run_id, run.status)

    def _complete(self, run_id: str, run: Run, evaluated: Evaluated) -> None:
        client = MlflowClient()
        for figure in evaluated.figures:
            client.log_artifact(run_id, str(figure), "figures")
        for earlier in client.search_logged_models([self.experiment_id], f"source_run_id = '{run_id}'"):
            client.delete_logged_model(earlier.model_id)  # of a projection that broke off
        client.log_inputs(run_id, list(_inputs(evaluated)))
        with mlflow.start_run(run_id=run_id):
            model = None if evaluated.weights is None else _log_model(run, evaluated.weights, evaluated)
        client.log_batch(run_id, list(_measured(evaluated, model)))
        end = _milliseconds(evaluated.ended)
        client.set_terminated(run_id, run.status, end)
        client.set_tag(run_id, "complete", "yes")


def page(uri: str, port: int = PORT) -> str:
    """The address of the runs' table; for a database, where `make ui` shows it.

    A click on an experiment does not lead there: MLflow 3.17 goes by what the browser was used for last, or else GenAI.

    Raises:
        UserError: there is no such experiment.
    """
    name, at = mlflow_store.experiment(), mlflow_store.public(uri)
    experiment = MlflowClient(uri).get_experiment_by_name(name)
    if experiment is None:
        msg = f'MLflow at {at} has no experiment "{name}": `make track` writes it, MLFLOW_EXPERIMENT_NAME names another'
        raise UserError(msg)
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise mlflow_store.deleted(uri, experiment.experiment_id)
    server = at.rstrip("/") if uri.startswith("http") else f"http://127.0.0.1:{port}"
    return f"{server}/{RUNS.format(experiment.experiment_id)}"


def _shows(found: Found, run: Run) -> bool:
    """Whether nothing of `run` is left to be written."""
    fingerprint = found.data.tags.get("fingerprint")
    return _is_complete(found) and (run.evaluated is None or run.evaluated.fingerprint == fingerprint)


def _is_complete(found: Found) -> bool:
    return found.data.tags.get("complete") == "yes"


def _is_of(found: Found, run: Run) -> bool:
    """Whether an unfinished run can become `run`: MLflow lets no parameter be changed and no metric be taken back."""
    logged, fingerprint = found.data.params, found.data.tags.get("fingerprint")
    return (
        found.info.start_time == _milliseconds(run.started)
        and (fingerprint is None or (run.evaluated is not None and run.evaluated.fingerprint == fingerprint))
        and all(logged.get(key, value) == value for key, value in _texts(run.parameters).items())
    )


def _differing(runs: Sequence[Found]) -> list[str]:
    """The parameters of which runs of one model have several values, those of most models first."""
    values = dict[str, dict[str, set[str]]]()  # by parameter and model
    for run in runs:
        for key, value in run.data.params.items():
            values.setdefault(key, {}).setdefault(run.data.tags.get("model", ""), set()).add(value)
    counts = {key: sum(len(each) > 1 for each in of.values()) for key, of in values.items() if key not in SHOWN}
    return sorted((key for key, count in counts.items() if count), key=lambda key: (-counts[key], key))[:HANDFUL]


def _view(parameters: Sequence[str], metrics: Sequence[str], saved: float, groups: Iterable[str] = ()) -> str:
    """A saved view of the runs' page: a row for each of `groups`, with the means of its seeds, which it unfolds to.
    MLflow itself shows no metric in the table, and 10 runs in the charts.
    """
    columns = [f"metrics.`{name}`" for name in metrics]  # first: in the row of a group the others are empty
    columns += [f"params.`{DATASET}`", "tags.`entry`", *(f"params.`{name}`" for name in parameters)]
    state = {
        "selectedColumns": columns,
        "columnOrder": columns,
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": GROUP}]},
        "groupsExpanded": {f"tag.{GROUP}.{group}": False for group in sorted(groups)},
    }
    return json.dumps({"name": VIEW, "createdAt": _milliseconds(saved), "state": json.dumps(state)})


def _inputs(evaluated: Evaluated) -> Iterator[DatasetInput]:
    """The splits of the data set, each with the shape of its images, which MLflow's page of a data set shows."""
    channels, height, width = evaluated.image
    images = TensorSpec(np.dtype(np.uint8), (-1, channels, height, width), "images")
    schema = json.dumps(TensorDatasetSchema(Schema([images])).to_dict())
    for split, digest in evaluated.digests.items():
        profile = json.dumps({"split": split, "channels": channels, "height": height, "width": width})
        data = Dataset(evaluated.data, digest, "code", SOURCE.to_json(), schema, profile)
        yield DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, split)])


def _measured(evaluated: Evaluated, model: str | None) -> Iterator[Metric]:
    """The metrics "split/metric", each of the model and of the images of its split; others, such as costs, of none."""
    for name, value in evaluated.metrics.items():
        digest = evaluated.digests.get(name.partition("/")[0])
        data = {"dataset_name": evaluated.data, "dataset_digest": digest} if digest else {}
        if math.isfinite(value):
            yield Metric(name, value, _milliseconds(evaluated.ended), 0, model_id=model, **data)


def _points(history: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """The losses as "phase/loss" at the step and time of a point; "system/…" is of no phase."""
    return [
        Metric(name if "/" in name else f"{point['phase']}/{name}", value, _milliseconds(point["time"]), point["step"])
        for point in history
        for name, value in point.items()
        if name not in {"phase", "step", "time"} and value is not None and math.isfinite(value)
    ]


def _texts(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value)[:LONGEST] for key, value in parameters.items()}


def _log_model(run: Run, weights: Path, evaluated: Evaluated) -> str:
    """The model as code plus safetensors: loading it needs no pickle, logging it does not import torch. Its id."""
    images = TensorSpec(np.dtype(np.float32), (-1, *evaluated.image))
    with warnings.catch_warnings(record=True):  # hints to write type hints, which the signature makes superfluous
        logged = mlflow.pyfunc.log_model(
            name=run.name,
            params=_texts(run.parameters),
            tags={NOTE: run.about} | {key: run.tags[key] for key in MODEL_TAGS if key in run.tags},
            python_model=str(Path(__file__).with_name("mlflow_model.py")),
            artifacts={"weights": str(weights)} | ({"scores": str(evaluated.scores)} if evaluated.scores else {}),
            code_paths=[str(PACKAGE)],
            pip_requirements=_requirements(),
            signature=ModelSignature(Schema([images]), Schema([images]), ParamSchema(list(OPTIONS))),
        )
    return str(logged.model_id)


def _requirements() -> list[str]:
    """What a model needs, in public versions: a build such as torch 2.15.0+cpu is not wherever the model is loaded."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
