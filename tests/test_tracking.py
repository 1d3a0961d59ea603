import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from autoencoders import checkpoint, tracking
from autoencoders.tracking import Run
from tests.conftest import IMAGE, PARAMETERS

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own, about the packages it uses


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    torch.manual_seed(0)
    weights, figure = tmp_path / "seed0.safetensors", tmp_path / "figure.png"
    checkpoint.save(checkpoint.build("ae", IMAGE, PARAMETERS["ae"]), weights)
    figure.write_bytes(b"png")
    return Run(
        name="ae_wide-beta4-seed0",
        about="The **plain** one.",
        fingerprint="f",
        started=1000.0,
        ended=1060.0,
        diverged=False,
        parameters={"ae.code": 4},
        tags={"device": "cpu"},
        history=[
            {"phase": "autoencoder", "step": 50, "time": 1010.5, "train_loss": 3.0, "train_rate": None},
            {"phase": "autoencoder", "step": 50, "time": 1011.0, "validation_loss": 4.0},
            {"phase": "autoencoder", "step": 100, "time": 1020.0, "train_loss": 2.0},
            {"phase": "autoencoder", "step": 150, "time": 1030.0, "train_loss": math.nan},
        ],
        metrics={"test/mse": 0.5, "test/neg_elbo": math.nan, "test/psnr": math.inf, "cost/train_seconds": 60.0},
        figures=[figure],
        weights=weights,
        data="toy",
        data_digest="0123456789abcdef0123456789abcdef",
        image=IMAGE,
    )


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_write_model", lambda _: None)


def _project(runs: list[Run], uri: str, tmp_path: Path, description: str = "columns") -> int:
    return tracking.project(runs, uri, tmp_path / "mlruns", description)


def _experiment(uri: str) -> mlflow.entities.Experiment:
    experiment = MlflowClient(uri).get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    return experiment


def _runs(uri: str) -> list[mlflow.entities.Run]:
    return list(MlflowClient(uri).search_runs([_experiment(uri).experiment_id]))


def _view(experiment: mlflow.entities.Experiment) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.results"])["state"])
    return state


def test_a_run_is_all_there_and_its_model_reconstructs(run: Run, uri: str, tmp_path: Path) -> None:
    assert _project([run], uri, tmp_path) == 1
    (found,) = _runs(uri)
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
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("toy", run.data_digest)
    figures = MlflowClient(uri).list_artifacts(found.info.run_id, "figures")
    assert [figure.path for figure in figures] == ["figures/figure.png"]

    x = np.random.default_rng(0).random((3, *IMAGE), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    (logged,) = MlflowClient(uri).search_logged_models([found.info.experiment_id])
    assert logged.name == "ae_wide-beta4-seed0"
    assert {metric.key: metric.value for metric in logged.metrics or []} == {"test/mse": 0.5, "cost/train_seconds": 60}
    script = (
        "import sys, mlflow, numpy; model, x, y = sys.argv[1:];"
        "numpy.save(y, mlflow.pyfunc.load_model(model).predict(numpy.load(x)))"
    )
    arguments = [logged.artifact_location, str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, *arguments], check=True)
    with torch.no_grad():
        expected = checkpoint.load(run.weights).reconstruct(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)
    assert not list(Path(tmp_path / "mlruns").rglob("*.pkl"))


@pytest.mark.usefixtures("no_model")
def test_a_point_has_its_step_and_its_own_time(run: Run, uri: str, tmp_path: Path) -> None:
    _project([run], uri, tmp_path)
    (found,) = _runs(uri)
    loss = MlflowClient(uri).get_metric_history(found.info.run_id, "autoencoder/train_loss")
    assert [(point.step, point.timestamp, point.value) for point in loss] == [(50, 1_010_500, 3), (100, 1_020_000, 2)]
    (mse,) = MlflowClient(uri).get_metric_history(found.info.run_id, "test/mse")
    assert (mse.step, mse.timestamp) == (0, 1_060_000)
    assert not MlflowClient(uri).get_metric_history(found.info.run_id, "autoencoder/train_rate")


@pytest.mark.usefixtures("no_model")
def test_more_than_one_call_takes(run: Run, uri: str, tmp_path: Path) -> None:
    parameters = {f"p{i}": i for i in range(250)} | {"long": "x" * 7000}
    history = [{"phase": "prior", "step": i, "time": 1000.0 + i, "train_loss": float(i)} for i in range(1200)]
    _project([replace(run, parameters=parameters, history=history)], uri, tmp_path)
    (found,) = _runs(uri)
    assert found.data.params == {key: str(value)[:6000] for key, value in parameters.items()}
    losses = MlflowClient(uri).get_metric_history(found.info.run_id, "prior/train_loss")
    assert [point.value for point in losses] == list(range(1200))


@pytest.mark.usefixtures("no_model")
def test_the_experiment_is_model_training_and_leads_to_its_runs(run: Run, uri: str, tmp_path: Path) -> None:
    _project([run], uri, tmp_path)
    experiment = _experiment(uri)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    link, _, description = experiment.tags["mlflow.note.content"].partition("\n\n")
    address = f"#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=results"
    assert (link, description) == (f"[Show the runs]({address})", "columns")
    assert tracking.page(uri) == f"http://127.0.0.1:5000/{address}"
    assert _view(experiment)["selectedColumns"] == [f"metrics.`{name}`" for name in run.metrics]


@pytest.mark.usefixtures("no_model")
def test_an_older_experiment_gets_what_it_lacks(run: Run, uri: str, tmp_path: Path) -> None:
    MlflowClient(uri).create_experiment(tracking.EXPERIMENT, (tmp_path / "elsewhere").as_uri(), {"team": "x"})
    _project([run], uri, tmp_path)
    tags = _experiment(uri).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["team"] == "x"
    _project([replace(run, metrics={"test/fid": 1.0})], uri, tmp_path, "today's columns")
    assert _experiment(uri).tags["mlflow.note.content"].endswith("today's columns")
    assert _view(_experiment(uri))["selectedColumns"] == ["metrics.`test/fid`"]


@pytest.mark.usefixtures("no_model")
def test_a_kind_that_someone_chose_stays(run: Run, uri: str, tmp_path: Path) -> None:
    kind = {"mlflow.experimentKind": "regression"}
    MlflowClient(uri).create_experiment(tracking.EXPERIMENT, (tmp_path / "mlruns").as_uri(), kind)
    _project([run], uri, tmp_path)
    assert _experiment(uri).tags["mlflow.experimentKind"] == "regression"


@pytest.mark.usefixtures("no_model")
def test_projecting_again_adds_nothing(run: Run, uri: str, tmp_path: Path) -> None:
    _project([run], uri, tmp_path)
    assert _project([run, replace(run, fingerprint="g")], uri, tmp_path) == 1
    assert len(_runs(uri)) == 2


def test_a_projection_that_broke_off_is_done_again(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Run) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_write_model", away)
        with pytest.raises(ConnectionError):
            _project([run], uri, tmp_path)
    assert _project([run], uri, tmp_path) == 1
    (found,) = _runs(uri)
    assert found.info.status == "FINISHED"
    assert found.data.tags["complete"] == "yes"


def test_a_diverged_run_is_failed_and_has_no_model(run: Run, uri: str, tmp_path: Path) -> None:
    _project([replace(run, diverged=True, metrics={"cost/train_seconds": 60.0})], uri, tmp_path)
    (found,) = _runs(uri)
    assert found.info.status == "FAILED"
    assert found.data.metrics["cost/train_seconds"] == 60.0
    assert not MlflowClient(uri).search_logged_models([found.info.experiment_id])
