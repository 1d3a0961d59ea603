"""Tests of the output and command of `make ui`; tests/system/test_pipeline.py opens the page."""

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from aelab.inference.mlflow_store import EXPERIMENT
from pipeline.reporting import ui
from tests.support import servers

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of MLflow


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """Record the commands that would replace this process, with their environment. The project is in `tmp_path`."""
    commands: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.chdir(tmp_path)
    for key in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(os, "execve", lambda _, words, environment: commands.append((words, environment)))
    return commands


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port at which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


Started = list[tuple[list[str], dict[str, str]]]


def test_the_link_is_that_of_the_experiment_and_the_port(
    started: Started, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client, port = MlflowClient(uri), servers.free_port()
    client.create_experiment("another")
    number = client.create_experiment(EXPERIMENT)
    assert number != "1"
    ui.main(port=port)
    address = (
        f"http://127.0.0.1:{port}/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey=results"
    )
    assert capsys.readouterr().out == f"The runs: {address}\n"
    ((words, environment),) = started
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--port") + 1] == str(port)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri


def test_the_environment_names_database_and_experiment(
    started: Started, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").rename(tmp_path / "other.db")
    other = uri.replace("mlflow.db", "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    MlflowClient(other).create_experiment(EXPERIMENT)
    number = MlflowClient(other).create_experiment("mine")
    ui.main(port=servers.free_port())
    assert f"/#/experiments/{number}/runs" in capsys.readouterr().out
    assert started[0][1]["MLFLOW_BACKEND_STORE_URI"] == other
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_s_runs_are_at_the_server(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there: dict[str, Any] = {"experiment_id": "7", "name": EXPERIMENT, "lifecycle_stage": "active"}
    with servers.answering(200, json.dumps({"experiment": there})) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}/")
        ui.main()  # port 5000 of this machine does not matter
    assert f"The runs: {uri}/#/experiments/7/runs?" in capsys.readouterr().out
    assert started == []


def test_a_port_that_is_taken_is_told_with_one_that_is_free(started: Started, uri: str, taken: int) -> None:
    MlflowClient(uri).create_experiment(EXPERIMENT)
    with pytest.raises(SystemExit, match=f"port {taken} is taken by another program: `make ui PORT=") as caught:
        ui.main(port=taken)
    found = re.search(r"PORT=(\d+)`", str(caught.value))
    assert found
    assert started == []
    ui.main(port=int(found[1]))
    assert len(started) == 1


def test_what_there_is_not_is_told_and_not_made(
    started: Started, tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"mlflow.db does not exist: `make repro` writes it"):
        ui.main()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").write_text("no database" * 99)
    with pytest.raises(SystemExit, match="no database at all"):
        ui.main()
    (tmp_path / "mlflow.db").write_bytes(empty.read_bytes())
    with pytest.raises(SystemExit, match=f'has no experiment "{EXPERIMENT}"; `make track` writes this experiment'):
        ui.main()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.delete_experiment(client.create_experiment(EXPERIMENT))
    with pytest.raises(SystemExit, match=r"is deleted: .* mlflow experiments restore"):
        ui.main()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://server")
    with pytest.raises(SystemExit, match="is not an MLflow address"):
        ui.main()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{servers.free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SystemExit, match="does not answer: API request to"):
        ui.main()
    assert started == []
