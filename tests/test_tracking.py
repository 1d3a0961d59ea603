import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
    checkpoint.save(checkpoint.build("ae", IMAGE, PARAMETERS["ae"]), "ae", PARAMETERS["ae"], weights)
    figure.write_bytes(b"png")
    return Run(
        name="ae-seed0",
        fingerprint="f",
        started=1000.0,
        ended=1060.0,
        diverged=False,
        parameters={"ae.code": 4},
        tags={"device": "cpu"},
        history=[
            {"phase": "autoencoder", "epoch": epoch, "train_loss": loss} for epoch, loss in ((1, 3.0), (2, math.nan))
        ],
        metrics={"mse": 0.5, "neg_elbo": math.nan, "psnr": math.inf},
        figures=[figure],
        weights=weights,
        data="toy",
        data_digest="0123456789abcdef0123456789abcdef",
        image=IMAGE,
    )


def _runs(uri: str) -> list[mlflow.entities.Run]:
    experiment = MlflowClient(uri).get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    return list(MlflowClient(uri).search_runs([experiment.experiment_id]))


def test_a_run_is_all_there_and_its_model_reconstructs(run: Run, uri: str, tmp_path: Path) -> None:
    assert tracking.project([run], uri, tmp_path / "mlruns") == 1
    (found,) = _runs(uri)
    assert found.info.run_name == "ae-seed0"
    assert found.info.status == "FINISHED"
    assert (found.info.start_time, found.info.end_time) == (1_000_000, 1_060_000)
    assert found.data.params == {"ae.code": "4"}
    assert found.data.metrics == {"mse": 0.5, "autoencoder/train_loss": 3.0}
    assert found.data.tags["device"] == "cpu"
    assert found.inputs is not None
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("toy", run.data_digest)
    figures = MlflowClient(uri).list_artifacts(found.info.run_id, "figures")
    assert [figure.path for figure in figures] == ["figures/figure.png"]

    x = np.random.default_rng(0).random((3, *IMAGE), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    (logged,) = MlflowClient(uri).search_logged_models([found.info.experiment_id])
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


def test_projecting_again_adds_nothing(run: Run, uri: str, tmp_path: Path) -> None:
    tracking.project([run], uri, tmp_path / "mlruns")
    assert tracking.project([run, replace(run, fingerprint="g")], uri, tmp_path / "mlruns") == 1
    assert len(_runs(uri)) == 2


def test_a_projection_that_broke_off_is_done_again(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Run) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_write_model", away)
        with pytest.raises(ConnectionError):
            tracking.project([run], uri, tmp_path / "mlruns")
    assert tracking.project([run], uri, tmp_path / "mlruns") == 1
    (found,) = _runs(uri)
    assert found.info.status == "FINISHED"
    assert found.data.tags["complete"] == "yes"


def test_a_diverged_run_is_failed_and_has_no_model(run: Run, uri: str, tmp_path: Path) -> None:
    tracking.project([replace(run, diverged=True, metrics={})], uri, tmp_path / "mlruns")
    (found,) = _runs(uri)
    assert found.info.status == "FAILED"
    assert not MlflowClient(uri).search_logged_models([found.info.experiment_id])
