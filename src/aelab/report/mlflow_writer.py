"""Writer of MLflow runs: copies results from the disk to MLflow, with one run for each training.

A run is updated during the training, and is complete after the evaluation. Its tag `training` has the fingerprint of
the training: a hash of everything on which the trained weights depend. The fingerprint identifies the run, so writing
the same results twice adds nothing. A lock file lets only one process of this machine write at a time.

A run whose tag `complete` is not "yes" is unfinished. The next write completes or replaces an unfinished run. Undefined
and non-finite numbers are not logged.
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

NOTE = "mlflow.note.content"  # Tag of an experiment or a run, with the description in Markdown.
VIEW = "results"
SAVED = f"mlflow.sharedViewState.{VIEW}"  # Tag of the experiment, with the saved view of its table of runs.
DATASET = "dataset.name"  # Parameter of every run.
GROUP = "group"  # Tag of every run, equal for all seeds of an entry (a model configuration) on a data set.
MODEL_TAGS = (GROUP, "entry", "seed", "symptoms")  # The logged model of a run gets these tags of the run, too.
SHOWN = (DATASET, "seed")  # Parameters that the view shows already, as a column and in the run's name.
PORT = 5000  # Default port of `mlflow ui`.
HANDFUL = 5  # Maximum number of parameters in the view.
RECENT = 500  # Maximum number of runs whose parameters are compared for the view.
RUNS = f"#/experiments/{{}}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"  # Path on any MLflow server.
LONGEST = 6000  # Maximum number of characters in a parameter, a limit of MLflow.
REQUIREMENTS = ("mlflow", "numpy", "pydantic", "safetensors", "torch", "tqdm")  # Packages that a logged model imports.
PACKAGE = Path(__file__).parents[1]
OPTIONS = (  # params of a served model: the task, and the fields of `tasks.Options`
    ParamSpec("task", DataType.string, "reconstruct"),
    ParamSpec("seed", DataType.long, 0),
    ParamSpec("count", DataType.long, 1),
    ParamSpec("steps", DataType.long, 10),
    ParamSpec("codes", DataType.double, [], (-1,)),
    ParamSpec("by", DataType.string, ""),
)
OURS = {"written_by": "aelab"}  # Tag of all registered models that this module wrote.
LOSSES = ("autoencoder/train_loss", "autoencoder/validation_loss")  # Metrics that every run has.
WAIT = 30.0  # Seconds to wait for the lock of another process.
SOURCE = CodeDatasetSource({"mlflow.source.name": "dvc stage download"})  # Source of the images.
RUNNING, KILLED, FINISHED, FAILED = "RUNNING", "KILLED", "FINISHED", "FAILED"  # MLflow's names for the status of a run.


@dataclass(frozen=True)
class Run:
    """State of a training, as its run in MLflow should show it.

    Attributes:
        name: name of the run and of its model: letters, digits, "-" and "_".
        about: description in Markdown.
        training: fingerprint of the training.
        status: RUNNING, KILLED, FINISHED or FAILED.
        started: start of the training, in seconds since 1970.
        parameters: parameters of the run.
        tags: tags of the run.
        history: points of the learning curve: phase, step, time in seconds since 1970, and losses.
        evaluated: results of the evaluation; None before the evaluation.
    """

    name: str
    about: str
    training: str
    status: str
    started: float
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    history: Sequence[Mapping[str, Any]]
    evaluated: "Evaluated | None" = None


@dataclass(frozen=True)
class Evaluated:
    """Results of a training and its evaluation.

    Attributes:
        fingerprint: hash of the code, data, parameters and results.
        ended: end of the evaluation, in seconds since 1970.
        metrics: metrics by their names in MLflow, such as "test/mse".
        figures: image files.
        weights: file of the weights; None if the training diverged.
        data: name of the data set.
        digests: digest of each split: "train", "validation", "test".
        image: shape of an image, (C, H, W).
        scores: file with the scores of validation images, to which `aelab score` compares new images; or None.
    """

    fingerprint: str
    ended: float
    metrics: Mapping[str, float]
    figures: list[Path]
    weights: Path | None
    data: str
    digests: Mapping[str, str]
    image: tuple[int, int, int]
    scores: Path | None = None


@dataclass
class Projector:
    """Writer of runs to the MLflow at `uri`.

    A method raises a `UserError` for a problem that only the user can solve; the message names the remedy. Any other
    exception comes from MLflow, the network or a database. After such an exception, the same call may succeed later,
    with this projector or another projector.

    Args:
        uri: the address of a server, or "sqlite:///" and a path.
        local_artifacts: the folder of all artifacts, if there is no server.
        lock: a lock file. Of all projectors with the same lock file, only one writes at a time.
        experiment_id: the id of the experiment, set by `open`.
        logged: the number of points of the learning curve that were already written, by run id.
    """

    uri: str
    local_artifacts: Path
    lock: Path
    experiment_id: str = ""
    logged: dict[str, int] = field(default_factory=dict)

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
            link = f"[Show the runs]({RUNS.format(self.experiment_id)})"  # MLflow shows only the first line
            self._tag(experiment, NOTE, f"{link}\n\n{description}")
            if SAVED not in experiment.tags:  # the link needs a saved view
                self._tag(experiment, SAVED, _view([], LOSSES, 0.0))

    def show(self, metrics: Sequence[str], saved: float) -> None:
        """Save a view of the table of runs: metrics, data set, entry, and parameters that differ between runs.

        Args:
            metrics: the metrics to show. Metrics that no run has are left out.
            saved: creation time of the view, in seconds since 1970.
        """
        with self._alone():
            client = MlflowClient()
            runs = client.search_runs([self.experiment_id], max_results=RECENT)
            groups = {self._group(run) for run in runs} - {""}
            there = [name for name in metrics if any(name in run.data.metrics for run in runs)]
            view = _view(_differing(runs), there or LOSSES, saved, groups)
            self._tag(client.get_experiment(self.experiment_id), SAVED, view)

    def _group(self, run: Found) -> str:
        """Return the group of a run. A run that an earlier release wrote gets the tag here."""
        tags, params = run.data.tags, run.data.params
        if GROUP not in tags and "entry" in tags and DATASET in params:
            tags[GROUP] = f"{params[DATASET]}-{tags['entry']}"
            MlflowClient().set_tag(run.info.run_id, GROUP, tags[GROUP])
        return str(tags.get(GROUP, ""))

    def _tag(self, experiment: Experiment, key: str, value: str) -> None:
        if experiment.tags.get(key) != value:
            MlflowClient().set_experiment_tag(self.experiment_id, key, value)

    def _check(self, there: Experiment) -> None:
        """Check that runs can be written to the experiment.

        Raises:
            UserError: the experiment is deleted, or its artifacts are in the project's former folder.
        """
        if there.lifecycle_stage == LifecycleStage.DELETED:
            raise mlflow_store.deleted(self.uri, there.experiment_id)
        database, here = mlflow_store.file_of(self.uri), self.local_artifacts.resolve()
        at = urlsplit(there.artifact_location)
        location = Path(unquote(at.path)).resolve()
        own = database is not None and database.resolve().parent == here.parent and at.scheme in {"", "file"}
        if own and location.name == here.name and location != here:
            msg = (
                f"{database} has its artifacts in {location}, since the project was moved or copied. "
                f"`rm -rf {quote(str(database))} {quote(str(here))}` deletes the database, with other experiments and "
                "with runs whose results are no longer on disk; then `make track` copies the results on disk to MLflow"
            )
            raise UserError(msg)

    def project(self, run: Run) -> bool:
        """Write the current state of `run` to MLflow. Return whether anything was new."""
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
        """Give the alias `ALIAS` in MLflow's registry to a champion. Return a message for the user, or "".

        Nothing changes before the champion's run is complete. A run becomes at most one version of the registered
        model. A registered model that aelab did not write stays unchanged.
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
                return f"models:/{name} was not written by aelab and stays unchanged; set {NAME} to use another name"
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
        """Hold the lock, so that no other process writes.

        Raises:
            TimeoutError: another process held the lock for `WAIT` seconds.
            UserError: MLflow fails for a reason that waiting does not remove.
        """
        try:
            with mlflow_store.explained(self.uri), FileLock(self.lock, timeout=WAIT):
                yield
        except Timeout as error:
            msg = f"another process has held the lock {self.lock} for {WAIT:.0f} s"
            raise TimeoutError(msg) from error

    def _write(self, found: Found, run: Run) -> None:
        """Write the parts of `run` that MLflow does not have.

        Writing a point twice is harmless: MLflow drops a metric with the same name, step, time and value.
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
            client.delete_logged_model(earlier.model_id)  # an interrupted write left this model
        client.log_inputs(run_id, list(_inputs(evaluated)))
        with mlflow.start_run(run_id=run_id):
            model = None if evaluated.weights is None else _log_model(run, evaluated.weights, evaluated)
        client.log_batch(run_id, list(_measured(evaluated, model)))
        end = _milliseconds(evaluated.ended)
        client.set_terminated(run_id, run.status, end)
        client.set_tag(run_id, "complete", "yes")


def page(uri: str, port: int = PORT) -> str:
    """Return the address of the table of runs. If `uri` is a database, the address is on the server of `make ui`.

    In MLflow 3.17, a click on an experiment may open the GenAI view instead of this table.

    Args:
        uri: the address of MLflow, as for `Projector`.
        port: the port of `make ui`.

    Raises:
        UserError: the experiment does not exist or is deleted.
    """
    name, at = mlflow_store.experiment(), mlflow_store.public(uri)
    experiment = MlflowClient(uri).get_experiment_by_name(name)
    if experiment is None:
        msg = (
            f'MLflow at {at} has no experiment "{name}"; `make track` writes this experiment, MLFLOW_EXPERIMENT_NAME '
            "selects another"
        )
        raise UserError(msg)
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise mlflow_store.deleted(uri, experiment.experiment_id)
    server = at.rstrip("/") if uri.startswith("http") else f"http://127.0.0.1:{port}"
    return f"{server}/{RUNS.format(experiment.experiment_id)}"


def _shows(found: Found, run: Run) -> bool:
    """Whether MLflow already shows all of `run`."""
    fingerprint = found.data.tags.get("fingerprint")
    return _is_complete(found) and (run.evaluated is None or run.evaluated.fingerprint == fingerprint)


def _is_complete(found: Found) -> bool:
    return found.data.tags.get("complete") == "yes"


def _is_of(found: Found, run: Run) -> bool:
    """Whether MLflow's unfinished run `found` can become `run`.

    The parameters and results in MLflow must agree with `run`, because MLflow cannot change a parameter or
    delete a metric.
    """
    logged, fingerprint = found.data.params, found.data.tags.get("fingerprint")
    return (
        found.info.start_time == _milliseconds(run.started)
        and (fingerprint is None or (run.evaluated is not None and run.evaluated.fingerprint == fingerprint))
        and all(logged.get(key, value) == value for key, value in _texts(run.parameters).items())
    )


def _differing(runs: Sequence[Found]) -> list[str]:
    """Return at most `HANDFUL` parameters that differ between runs of one model.

    The parameters that differ within the most models come first.
    """
    values = dict[str, dict[str, set[str]]]()  # values by parameter and model
    for run in runs:
        for key, value in run.data.params.items():
            values.setdefault(key, {}).setdefault(run.data.tags.get("model", ""), set()).add(value)
    counts = {key: sum(len(each) > 1 for each in of.values()) for key, of in values.items() if key not in SHOWN}
    return sorted((key for key, count in counts.items() if count), key=lambda key: (-counts[key], key))[:HANDFUL]


def _view(parameters: Sequence[str], metrics: Sequence[str], saved: float, groups: Iterable[str] = ()) -> str:
    """Return a view of the table of runs, as JSON: a row for each group, with the means over its seeds.

    Without a saved view, MLflow shows no metric in the table and only 10 runs in the charts.
    """
    columns = [f"metrics.`{name}`" for name in metrics]  # first: a group's row has values only for metrics
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
    """Yield the splits of the data set, as inputs of the run, with the shape of the images."""
    channels, height, width = evaluated.image
    images = TensorSpec(np.dtype(np.uint8), (-1, channels, height, width), "images")
    schema = json.dumps(TensorDatasetSchema(Schema([images])).to_dict())
    for split, digest in evaluated.digests.items():
        profile = json.dumps({"split": split, "channels": channels, "height": height, "width": width})
        data = Dataset(evaluated.data, digest, "code", SOURCE.to_json(), schema, profile)
        yield DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, split)])


def _measured(evaluated: Evaluated, model: str | None) -> Iterator[Metric]:
    """Yield the metrics, linked to the model. A metric "split/name" is also linked to the data of the split."""
    for name, value in evaluated.metrics.items():
        digest = evaluated.digests.get(name.partition("/")[0])
        data = {"dataset_name": evaluated.data, "dataset_digest": digest} if digest else {}
        if math.isfinite(value):
            yield Metric(name, value, _milliseconds(evaluated.ended), 0, model_id=model, **data)


def _points(history: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Return the losses as metrics "phase/loss", with step and time. A name that already has a "/" is kept."""
    return [
        Metric(name if "/" in name else f"{point['phase']}/{name}", value, _milliseconds(point["time"]), point["step"])
        for point in history
        for name, value in point.items()
        if name not in {"phase", "step", "time", "seconds"} and value is not None and math.isfinite(value)
    ]


def _texts(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value)[:LONGEST] for key, value in parameters.items()}


def _log_model(run: Run, weights: Path, evaluated: Evaluated) -> str:
    """Log the model as code and safetensors, without pickle and without an import of torch. Return the model's id."""
    images = TensorSpec(np.dtype(np.float32), (-1, *evaluated.image))
    with warnings.catch_warnings(record=True):  # MLflow's warning that asks for type hints
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
    """Return the required packages with versions, without a suffix as in 2.15.0+cpu, which a package index may lack."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
