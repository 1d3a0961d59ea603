import concurrent.futures
import contextlib
import json
import socket
import sqlite3
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from filelock import FileLock
from mlflow import MlflowClient

from aelab.core.errors import UserError
from aelab.inference import mlflow_store
from aelab.models import checkpoint
from aelab.report import mlflow_writer
from aelab.report.champions import ALIAS, NAME, rule
from aelab.report.mlflow_writer import FAILED, KILLED, RUNNING, Projector, Run
from tests.support import forks, servers
from tests.support.processes import PATIENCE, wait_for
from tests.support.runs import (
    champion,
    experiment_at,
    history,
    other,
    projector_at,
    registered,
    runs_at,
    toy_run,
    unfinished,
)  # fmt: skip
from tests.support.toys import IMAGE

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own, about the packages it uses


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return toy_run(tmp_path)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_writer, "_log_model", lambda *_: None)


def _project(runs: list[Run], uri: str, tmp_path: Path) -> int:
    projector = projector_at(uri, tmp_path)
    return sum(projector.project(run) for run in runs)


def _view(experiment: mlflow.entities.Experiment) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.results"])["state"])
    return state


def test_a_run_is_all_there_and_its_model_reconstructs(run: Run, uri: str, tmp_path: Path) -> None:
    assert _project([run], uri, tmp_path) == 1
    (found,) = runs_at(uri)
    assert found.info.run_name == "ae_wide-beta4-seed0"
    assert found.info.status == "FINISHED"
    assert (found.info.start_time, found.info.end_time) == (1_000_000, 1_060_000)
    assert found.data.params == {"ae.code": "4"}
    assert found.data.metrics == {
        "test/mse": 0.5,
        "cost/train_seconds": 60.0,
        "autoencoder/train_loss": 2.0,
        "autoencoder/validation_loss": 4.0,
    }
    assert found.data.tags["device"] == "cpu"
    assert found.data.tags["mlflow.note.content"] == "The **plain** one."
    assert found.inputs is not None
    data = {each.tags[0].value: (each.dataset.name, each.dataset.digest) for each in found.inputs.dataset_inputs}
    assert data == {"train": ("toy", "0123456789abcdef0123456789abcdef"), "test": ("toy", "f" * 32)}
    schemas = {each.dataset.schema for each in found.inputs.dataset_inputs}
    assert all(schema and "mlflow_tensorspec" in schema and str(list(IMAGE))[1:-1] in schema for schema in schemas)
    assert all(each.dataset.profile for each in found.inputs.dataset_inputs)
    figures = MlflowClient(uri).list_artifacts(found.info.run_id, "figures")
    assert [figure.path for figure in figures] == ["figures/figure.png"]

    x = np.random.default_rng(0).random((3, *IMAGE), dtype=np.float32)
    (logged,) = MlflowClient(uri).search_logged_models([found.info.experiment_id])
    assert logged.name == "ae_wide-beta4-seed0"
    measured = {
        metric.key: (metric.value, metric.dataset_name, metric.dataset_digest) for metric in logged.metrics or []
    }
    assert measured == {"test/mse": (0.5, "toy", "f" * 32), "cost/train_seconds": (60, None, None)}  # no images
    assert (logged.params, logged.tags["mlflow.note.content"]) == ({"ae.code": "4"}, "The **plain** one.")
    assert logged.tags["group"] == "toy-ae_wide"
    with torch.no_grad():
        assert run.evaluated is not None
        assert run.evaluated.weights is not None
        expected = checkpoint.load(run.evaluated.weights).reconstruct(torch.from_numpy(x)).numpy()
    with warnings.catch_warnings(record=True):  # its own warnings
        y = mlflow.pyfunc.load_model(logged.artifact_location).predict(x)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    assert not list(Path(tmp_path / "mlruns").rglob("*.pkl"))


@pytest.mark.usefixtures("no_model")
def test_a_point_has_its_step_and_its_own_time(run: Run, uri: str, tmp_path: Path) -> None:
    _project([run], uri, tmp_path)
    (found,) = runs_at(uri)
    loss = MlflowClient(uri).get_metric_history(found.info.run_id, "autoencoder/train_loss")
    assert [(point.step, point.timestamp, point.value) for point in loss] == [(50, 1_010_500, 3), (100, 1_020_000, 2)]
    (mse,) = MlflowClient(uri).get_metric_history(found.info.run_id, "test/mse")
    assert (mse.step, mse.timestamp) == (0, 1_060_000)
    assert not MlflowClient(uri).get_metric_history(found.info.run_id, "autoencoder/train_rate")


@pytest.mark.usefixtures("no_model")
def test_what_the_process_took_is_of_no_phase(run: Run, uri: str, tmp_path: Path) -> None:
    """MLflow shows metrics whose names begin with "system/" on a separate page."""
    point = {"phase": "prior", "step": 50, "time": 1010.0, "validation_loss": 1.0, "system/cpu": 98.0}
    _project([replace(run, history=[point])], uri, tmp_path)
    (found,) = runs_at(uri)
    assert {"prior/validation_loss", "system/cpu"} <= found.data.metrics.keys()
    assert history(uri, "system/cpu") == [(50, 98.0)]


@pytest.mark.usefixtures("no_model")
def test_more_than_one_call_takes(run: Run, uri: str, tmp_path: Path) -> None:
    parameters = {f"p{i}": i for i in range(250)} | {"long": "x" * 7000}
    history = [{"phase": "prior", "step": i, "time": 1000.0 + i, "train_loss": float(i)} for i in range(1200)]
    _project([replace(run, parameters=parameters, history=history)], uri, tmp_path)
    (found,) = runs_at(uri)
    assert found.data.params == {key: str(value)[:6000] for key, value in parameters.items()}
    losses = MlflowClient(uri).get_metric_history(found.info.run_id, "prior/train_loss")
    assert [point.value for point in losses] == list(range(1200))


@pytest.mark.usefixtures("no_model")
def test_the_experiment_leads_to_its_runs(run: Run, uri: str, tmp_path: Path) -> None:
    _project([run], uri, tmp_path)
    experiment = experiment_at(uri)
    link, _, description = experiment.tags["mlflow.note.content"].partition("\n\n")
    address = f"#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=results"
    assert (link, description) == (f"[Show the runs]({address})", "about all runs")
    assert mlflow_writer.page(uri) == f"http://127.0.0.1:5000/{address}"


def _columns(uri: str) -> list[str]:
    state = _view(experiment_at(uri))
    assert state["columnOrder"] == state["selectedColumns"]
    return [name.replace("`", "") for name in state["selectedColumns"]]


LAST = ["params.dataset.name", "tags.entry"]


@pytest.mark.usefixtures("no_model")
def test_the_view_has_a_row_for_the_seeds_of_an_entry(run: Run, uri: str, tmp_path: Path) -> None:
    projector = projector_at(uri, tmp_path)
    projector.project(run)
    before = replace(run, training="before", tags={"entry": "vae"}, parameters={"dataset.name": "digits"})
    projector.project(unfinished(before))  # written by a release without groups
    projector.project(unfinished(replace(run, training="other", tags={})))
    projector.show([], 1.0)
    state = _view(experiment_at(uri))
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "group"}]
    assert state["groupsExpanded"] == {"tag.group.digits-vae": False, "tag.group.toy-ae_wide": False}
    assert sorted(found.data.tags.get("group", "") for found in runs_at(uri)) == ["", "digits-vae", "toy-ae_wide"]


@pytest.mark.usefixtures("no_model")
def test_the_view_has_columns_from_the_first_point_on_and_keeps_them(run: Run, uri: str, tmp_path: Path) -> None:
    losses = [*(f"metrics.{name}" for name in mlflow_writer.LOSSES), *LAST]
    projector = projector_at(uri, tmp_path)
    assert _columns(uri) == losses
    projector.project(unfinished(run))
    projector.show(["test/mse"], 1.0)
    assert _columns(uri) == losses  # no metric is measured yet
    projector.project(run)
    projector.show(["test/mse", "test/fid"], 1.0)
    assert _columns(uri) == ["metrics.test/mse", *LAST]
    projector_at(uri, tmp_path)
    assert _columns(uri) == ["metrics.test/mse", *LAST]


def _show(uri: str, tmp_path: Path, *runs: dict[str, Any]) -> list[str]:
    """Write a run for each set of parameters. Return the parameters that the view shows."""
    projector = projector_at(uri, tmp_path)
    for parameters in runs:
        model, training = str(parameters.get("entry.model", "vae")), str(zlib.crc32(str(parameters).encode()))
        projector.project(Run("n", "a", training, KILLED, 1.0, parameters, {"model": model}, []))
    projector.show([], 1.0)
    params = [name.removeprefix("params.") for name in _columns(uri) if name.startswith("params.")]
    return [name for name in params if name != "dataset.name"]


TWO = {"dataset.name": "digits", "seed": 0, "entry.beta": 1.0, "training.steps": 10}


@pytest.mark.parametrize(
    ("runs", "differing"),
    [
        ([TWO], []),
        ([TWO, TWO | {"seed": 1}], []),
        ([TWO, TWO | {"dataset.name": "photos"}], []),  # shown in its own column
        ([TWO, TWO | {"entry.beta": 4.0}], ["entry.beta"]),
        ([TWO, TWO | {"entry.beta": 4.0, "training.steps": 20}], ["entry.beta", "training.steps"]),
        ([TWO, TWO | {"entry.new": 1}], []),  # an older release without this parameter
        ([TWO, {**TWO, "entry.model": "ae", "entry.beta": 0.0}], []),  # two models, which the entry shows
        (
            [{**TWO, "entry.model": model, "training.steps": steps, "entry.beta": beta} for model, steps, beta in
             [("ae", 1, 1), ("ae", 2, 1), ("vae", 1, 1), ("vae", 2, 2)]],
            ["training.steps", "entry.beta"],  # differs in two models, in one
        ),
        ([TWO | {f"p{i}": 0 for i in range(9)}, TWO | {f"p{i}": 1 for i in range(9)}], ["p0", "p1", "p2", "p3", "p4"]),
    ],
)  # fmt: skip
def test_the_view_has_what_differs_among_the_runs_of_a_model(
    runs: list[dict[str, Any]], differing: list[str], uri: str, tmp_path: Path
) -> None:
    assert _show(uri, tmp_path, *runs) == differing


def test_the_view_knows_what_was_written_before(uri: str, tmp_path: Path) -> None:
    assert _show(uri, tmp_path, TWO) == []
    assert _show(uri, tmp_path, TWO | {"entry.beta": 4.0}) == ["entry.beta"]


@pytest.mark.usefixtures("no_model")
def test_an_older_experiment_gets_what_it_lacks(run: Run, uri: str, tmp_path: Path) -> None:
    MlflowClient(uri).create_experiment(mlflow_store.EXPERIMENT, (tmp_path / "big/disk").as_uri(), {"team": "x"})
    _project([run], uri, tmp_path)
    tags = experiment_at(uri).tags
    assert tags["team"] == "x"
    Projector(uri, tmp_path / "mlruns", tmp_path / "lock").open("today's text")
    assert experiment_at(uri).tags["mlflow.note.content"].endswith("today's text")


def test_a_deleted_experiment_is_told_with_what_brings_it_back(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector = projector_at(uri, tmp_path)
    client, number = MlflowClient(uri), projector.experiment_id
    client.delete_experiment(number)
    told = f"experiment {number} of MLflow at {uri} is deleted: .* mlflow experiments restore --experiment-id {number}`"
    actions: list[Callable[[], object]] = [
        lambda: projector_at(uri, tmp_path),
        lambda: projector.project(unfinished(run)),  # deleted during a training
    ]
    for act in actions:
        with pytest.raises(UserError, match=told):
            act()
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "autoencoders 2")
        assert projector_at(uri, tmp_path).project(unfinished(run))
        assert [found.info.run_name for found in runs_at(uri, "autoencoders 2")] == [run.name]
        page = mlflow_writer.page(uri)
    with pytest.raises(UserError, match=told):
        mlflow_writer.page(uri)
    client.restore_experiment(number)
    assert page != mlflow_writer.page(uri)
    for act in actions:
        act()
    assert len(runs_at(uri)) == 1


@pytest.mark.parametrize("location", ["/gone/project/mlruns", "file:///gone/project/mlruns", "file:///a%20b/mlruns"])
def test_a_database_that_was_moved_with_the_project_is_told(location: str, uri: str, tmp_path: Path) -> None:
    client = MlflowClient(uri)
    number = client.create_experiment(mlflow_store.EXPERIMENT, location)
    with pytest.raises(UserError, match=r"or copied\. `rm -rf \S+mlflow.db \S+mlruns` deletes .*; then `make track`"):
        projector_at(uri, tmp_path)
    client.delete_experiment(number)
    with pytest.raises(UserError, match="is deleted"):
        projector_at(uri, tmp_path)


@pytest.mark.parametrize("location", ["s3://bucket/mlruns", "file:///big/disk", "mlflow-artifacts:/mlruns"])
def test_artifacts_that_the_user_has_put_elsewhere_stay_there(location: str, uri: str, tmp_path: Path) -> None:
    MlflowClient(uri).create_experiment(mlflow_store.EXPERIMENT, location)
    projector_at(uri, tmp_path)
    assert experiment_at(uri).artifact_location == location


def test_a_database_that_several_projects_share_is_written_from_all(uri: str, tmp_path: Path) -> None:
    projector_at(uri, tmp_path)
    elsewhere = tmp_path / "second"
    elsewhere.mkdir()
    projector_at(uri, elsewhere)


def test_what_waiting_does_not_mend_is_told_by_the_projector(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 99)
    with pytest.raises(UserError, match="no database at all"):
        projector_at(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)


@pytest.mark.usefixtures("no_model")
def test_projecting_again_adds_nothing(run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _project([run], uri, tmp_path)
    assert _project([run, other(run, fingerprint="g")], uri, tmp_path) == 1
    assert _project([run, other(run, fingerprint="g"), unfinished(run)], uri, tmp_path) == 0
    assert len(runs_at(uri)) == 2
    monkeypatch.setattr(mlflow_writer, "_shows", lambda *_: False)  # without this check, everything is written again
    assert _project([run], uri, tmp_path) == 1
    assert len(runs_at(uri)) == 3


def _broken_off_twice(run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Project a run on the third try, after failures before and after the model. Return the number of models."""

    def away(*_: object, **__: object) -> None:
        raise ConnectionError

    for method in ("log_artifact", "set_terminated"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, method, away)
            with pytest.raises(ConnectionError):
                _project([run], uri, tmp_path)
        (found,) = runs_at(uri)
        assert found.data.tags["complete"] == "no"
    assert _project([run], uri, tmp_path) == 1
    assert _project([run], uri, tmp_path) == 0
    (found,) = runs_at(uri)
    assert found.info.status == "FINISHED"
    assert found.data.tags["complete"] == "yes"
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0), (100, 2.0)]
    assert history(uri, "test/mse") == [(0, 0.5)]
    return len(MlflowClient(uri).search_logged_models([found.info.experiment_id]))


def test_a_projection_that_broke_off_is_completed_by_the_next(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _broken_off_twice(run, uri, tmp_path, monkeypatch) == 1


def test_a_half_written_model_would_stay_if_nobody_deleted_it(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MlflowClient, "delete_logged_model", lambda *_: None)
    assert _broken_off_twice(run, uri, tmp_path, monkeypatch) == 2


def test_a_diverged_run_is_failed_and_has_no_model(run: Run, uri: str, tmp_path: Path) -> None:
    diverged = replace(other(run, weights=None, metrics={"cost/train_seconds": 60.0}), status=FAILED)
    _project([diverged], uri, tmp_path)
    (found,) = runs_at(uri)
    assert found.info.status == "FAILED"
    assert found.data.metrics["cost/train_seconds"] == 60.0
    assert not MlflowClient(uri).search_logged_models([found.info.experiment_id])


def test_the_champion_is_who_was_promoted_last_and_no_run_has_two_versions(run: Run, uri: str, tmp_path: Path) -> None:
    projector = projector_at(uri, tmp_path)
    assert not projector.promote(champion())  # the run does not exist yet
    assert not MlflowClient(uri).search_registered_models()
    projector.project(run)
    assert projector.promote(champion())
    assert not projector.promote(champion())
    assert registered(uri) == [("f", [ALIAS])]
    version = MlflowClient(uri).get_model_version_by_alias("toy-denoising", ALIAS)
    assert version.description == "denoising_mse on the validation split: 0.25, mean of the entry's seeds 0.5"
    assert version.run_id == runs_at(uri)[0].info.run_id
    assert MlflowClient(uri).get_registered_model("toy-denoising").description == rule(champion())

    projector.project(replace(other(run, fingerprint="g"), training="u"))
    assert projector.promote(champion("g"))
    assert registered(uri) == [("f", []), ("g", [ALIAS])]
    assert projector.promote(champion("f"))
    assert registered(uri) == [("f", [ALIAS]), ("g", [])]
    assert not projector.promote(champion("none"))
    assert registered(uri) == [("f", [ALIAS]), ("g", [])]
    MlflowClient(uri).update_registered_model("toy-denoising", "the rule of before")
    projector.promote(champion("f"))
    assert MlflowClient(uri).get_registered_model("toy-denoising").description == rule(champion())


def _register(client: MlflowClient, name: str, source: str, tags: dict[str, str]) -> None:
    client.create_registered_model(name, description="of another team")
    for _ in range(2):
        client.create_model_version(name, source, tags=tags)
    client.set_registered_model_alias(name, ALIAS, "1")


@pytest.mark.parametrize(
    ("name", "tags"), [("toy-denoising", {}), ("toy-denoising", {"stage": "final"}), ("denoising", {}), ("theirs", {})]
)
def test_a_registered_model_of_somebody_else_stays_as_it_is(
    name: str, tags: dict[str, str], run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, {"toy-denoising": "{dataset}-{task}", "denoising": "{task}"}.get(name, "{task}"))
    client = MlflowClient(uri)
    _register(client, name, tmp_path.as_uri(), tags)

    def content() -> list[object]:
        versions = client.search_model_versions(f"name = '{name}'")
        return [dict(client.get_registered_model(name)), *sorted(str(dict(version)) for version in versions)]

    before = content()
    projector = projector_at(uri, tmp_path)
    projector.project(run)
    outcome = projector.promote(champion())
    assert content() == before
    assert outcome == (
        "models:/denoising@champion is now a model of ae"
        if name == "theirs"
        else f"models:/{name} was not written by aelab and stays unchanged; set {NAME} to use another name"
    )
    monkeypatch.setenv(NAME, "ours-{task}")
    assert projector.promote(champion())
    assert content() == before


@pytest.mark.parametrize("left", ["nothing", "a model without versions", "versions of an earlier release"])
def test_a_registered_model_of_ours_is_known_again(
    left: str, run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector = projector_at(uri, tmp_path)
    projector.project(run)
    if left == "a model without versions":
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "create_model_version", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                projector.promote(champion())
    elif left == "versions of an earlier release":
        _register(MlflowClient(uri), "toy-denoising", tmp_path.as_uri(), {"fingerprint": "e", "entry": "vae"})
    assert projector.promote(champion())
    assert registered(uri)[-1] == ("f", [ALIAS])


@pytest.mark.usefixtures("no_model")
def test_a_killed_training_that_goes_on_is_one_run_and_one_curve(run: Run, uri: str, tmp_path: Path) -> None:
    projector = projector_at(uri, tmp_path)
    for points in (1, 2):
        projector.project(unfinished(run, points))
        assert runs_at(uri)[0].info.status == "RUNNING"
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0)]
    projector.project(unfinished(run, 2, KILLED))
    assert runs_at(uri)[0].info.status == "KILLED"
    later = projector_at(uri, tmp_path)
    later.project(unfinished(run, 3))
    assert runs_at(uri)[0].info.status == "RUNNING"
    _project([run], uri, tmp_path)
    assert runs_at(uri)[0].info.status == "FINISHED"
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0), (100, 2.0)]
    assert history(uri, "autoencoder/validation_loss") == [(50, 4.0)]


@pytest.mark.usefixtures("no_model")
def test_begun_with_other_parameters_it_begins_anew(run: Run, uri: str, tmp_path: Path) -> None:
    projector = projector_at(uri, tmp_path)
    projector.project(unfinished(run, 2, KILLED))
    _project([replace(run, parameters={"ae.code": 5})], uri, tmp_path)
    assert runs_at(uri)[0].data.params == {"ae.code": "5"}
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0), (100, 2.0)]


@pytest.mark.usefixtures("no_model")
def test_begun_again_from_the_first_step_it_has_one_curve(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same points have other times, as after `rm -r checkpoints`."""
    later = [{**point, "time": point["time"] + 100} for point in run.history]
    again = replace(run, started=1100.0, history=later)
    projector_at(uri, tmp_path).project(unfinished(run, 2, KILLED))
    projector_at(uri, tmp_path).project(unfinished(again))
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0)]
    monkeypatch.setattr(mlflow_writer, "_is_of", lambda *_: True)
    projector_at(uri, tmp_path).project(unfinished(run, 2, KILLED))
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0), (50, 3.0)]


@pytest.fixture
def impatient_for_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_writer, "WAIT", 0.1)


@pytest.mark.usefixtures("impatient_for_the_lock")
def test_a_writer_that_holds_the_lock_for_long_is_a_sentence(run: Run, uri: str, tmp_path: Path) -> None:
    projector = projector_at(uri, tmp_path)
    lock = FileLock(tmp_path / "lock")
    actions: list[Callable[[], object]] = [
        lambda: projector.open("columns"),
        lambda: projector.project(unfinished(run)),
        lambda: projector.promote(champion()),
    ]
    for act in actions:
        with lock, pytest.raises(TimeoutError, match=r"another process has held the lock .*lock for 0 s"):
            act()
        act()


@pytest.mark.usefixtures("no_model")
def test_the_second_writer_waits_for_the_first(run: Run, uri: str, tmp_path: Path) -> None:
    projector = projector_at(uri, tmp_path)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with FileLock(tmp_path / "lock"):
            waiting = pool.submit(projector.project, run)
            assert runs_at(uri) == []
            assert not waiting.done()
        assert waiting.result()
    assert len(runs_at(uri)) == 1


def _race(run: Run, locks: tuple[Path, Path], uri: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a second projector after the first has searched for a run, and before it creates the run.

    Return the number of runs.
    """
    first, second = (Projector(uri, lock.parent / "mlruns", lock) for lock in locks)
    for projector in (first, second):
        projector.open("columns")
    create = MlflowClient.create_run

    def late(*arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "create_run", create)
            with contextlib.suppress(TimeoutError):
                second.project(run)
        return create(*arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_run", late)
    first.project(run)
    return len(runs_at(uri))


@pytest.mark.usefixtures("no_model", "impatient_for_the_lock")
@pytest.mark.parametrize(("second", "there"), [("lock", 1), ("another", 2)])
def test_a_run_that_two_write_at_once_is_there_once_thanks_to_the_lock(
    second: str, there: int, run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with separate locks, the second projector writes the run, too."""
    assert _race(run, (tmp_path / "lock", tmp_path / second), uri, monkeypatch) == there


def _write_ten(uri: str, folder: Path) -> None:
    mlflow_writer.WAIT = PATIENCE
    projector = Projector(uri, folder / "mlruns", folder / "lock")
    projector.open("columns")
    for i in range(10):
        projector.project(Run(f"n{i}", "a", f"t{i}", RUNNING, 1000.0, {"p": 1}, {}, []))


def test_several_first_time_writers_write_each_run_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    with forks.started(_write_ten, [(uri, tmp_path)] * 3) as writers:
        for writer in writers:
            writer.join(PATIENCE)
        assert [writer.exitcode for writer in writers] == [0] * 3
    assert sorted(str(found.info.run_name) for found in runs_at(uri)) == [f"n{i}" for i in range(10)]


@pytest.mark.usefixtures("no_model")
def test_a_locked_database_is_waited_for(run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    projector, asks = projector_at(uri, tmp_path), threading.Event()
    look = MlflowClient.search_runs

    def announced(*arguments: Any, **options: Any) -> Any:
        asks.set()
        return look(*arguments, **options)

    def tried() -> bool:
        with contextlib.suppress(Exception):
            return projector.project(run)
        return False

    monkeypatch.setattr(MlflowClient, "search_runs", announced)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other_writer:
        other_writer.execute("begin exclusive")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            writing = pool.submit(wait_for, tried)
            assert asks.wait(PATIENCE)
            other_writer.execute("rollback")
        assert writing.result()
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0), (100, 2.0)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


class Broken(BaseHTTPRequestHandler):
    """Handler that answers every request with status 500."""

    def _answer(self) -> None:
        self.send_response(500)
        self.end_headers()
        self.wfile.write(b"Internal Server Error")

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextlib.contextmanager
def broken_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_away_hangs_or_is_broken_is_an_exception(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging, broken_server() as broken:
        for uri in (f"http://127.0.0.1:{servers.free_port()}", f"http://127.0.0.1:{hanging.getsockname()[1]}", broken):
            with pytest.raises(Exception, match=r"."):
                projector_at(uri, tmp_path)


def test_a_model_needs_versions_that_any_index_has(monkeypatch: pytest.MonkeyPatch) -> None:
    builds = {"torch": "2.15.0+cpu", "numpy": "2.4.1"}
    monkeypatch.setattr(mlflow_writer, "version", lambda name: builds.get(name, "1.0"))
    assert {"torch==2.15.0", "numpy==2.4.1"} <= set(mlflow_writer._requirements())
