"""A training whose tracking server hangs and is killed has one complete run in MLflow."""

import signal
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from aelab.report.champions import ALIAS
from tests.support import servers
from tests.support.processes import PATIENCE
from tests.support.runs import champion, history, projector_at, registered, runs_at, toy_run, unfinished

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of MLflow about its packages


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.Server]:
    """Start a server that may be slow, with SQLite instead of a team's PostgreSQL."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(round(PATIENCE)))
    with servers.serving(tmp_path / "server") as running:
        yield running


def test_through_outages(server: servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run(tmp_path)
    projector = projector_at(server.uri, tmp_path)

    def is_away(points: int) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
            patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            with pytest.raises(Exception, match=r"."):
                projector.project(unfinished(run, points))

    projector.project(unfinished(run, 1))
    server.signal(signal.SIGSTOP)
    is_away(2)
    server.signal(signal.SIGCONT)
    projector.project(unfinished(run, 2))
    server.kill()
    is_away(3)
    server.start()
    projector.project(unfinished(run, 3))
    assert projector_at(server.uri, tmp_path).project(run)
    (found,) = runs_at(server.uri)
    assert found.info.status == "FINISHED"
    assert history(server.uri, "autoencoder/train_loss") == [(50, 3.0), (100, 2.0)]
    assert history(server.uri, "autoencoder/validation_loss") == [(50, 4.0)]
    figures = MlflowClient(server.uri).list_artifacts(found.info.run_id, "figures")
    assert [figure.path for figure in figures] == ["figures/figure.png"]
    assert found.info.artifact_uri.startswith("mlflow-artifacts:")  # only the server can reach the folder
    (logged,) = MlflowClient(server.uri).search_logged_models([found.info.experiment_id])
    assert logged.name == "ae_wide-beta4-seed0"
    assert [bool(projector.promote(champion())) for _ in range(2)] == [True, False]
    assert registered(server.uri) == [("f", [ALIAS])]
    weights = list(Path(mlflow.artifacts.download_artifacts(f"models:/toy-denoising@{ALIAS}")).rglob("*.safetensors"))
    assert run.evaluated is not None
    assert run.evaluated.weights is not None
    assert [path.read_bytes() for path in weights] == [run.evaluated.weights.read_bytes()]
