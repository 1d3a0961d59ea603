"""Tests of the copy to MLflow and of its updates, on folders of checkpoints without any training."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from aelab.core.errors import UserError
from aelab.inference import mlflow_store
from aelab.report import mlflow_writer
from pipeline.common import params, signals
from pipeline.common.params import Params
from pipeline.reporting import track
from tests.support.parameters import DEFAULT
from tests.support.runs import history, runs_at

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of MLflow


@pytest.fixture
def checked() -> Params:
    return params.check(DEFAULT, variants=False)


@pytest.fixture
def checkpoints(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for trainings of a project without results, which the fixtures' MLflow shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("AELAB_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("os.nice", lambda _: None)
    monkeypatch.setattr(track, "POLL", 0.0)
    return tmp_path / "checkpoints"


def begin(checkpoints: Path, entry: str, *, dataset: str = "digits", finished: bool = False) -> Path:
    """Make a training with one point, and return its folder."""
    folder = checkpoints / f"{entry}-seed0-{dataset}"
    folder.mkdir(parents=True)
    about = {"entry": entry, "seed": 0, "fingerprint": f"fingerprint-of-{entry}-on-{dataset}", "begun": [1000.0]}
    how = {"device": "cpu", "hardware": "a machine", "precision": "float32", "mode": "eager"}
    parameters = {f"variants.{entry}": {"model": "vae"}, "dataset": {"name": dataset}}
    (folder / "about.json").write_text(json.dumps({**about, **how, "parameters": parameters}))
    add_point(folder, 50)
    if finished:
        (folder / "finished.json").write_text("{}")
    return folder


def add_point(folder: Path, step: int) -> None:
    point = {"phase": "autoencoder", "step": step, "time": 1000.0 + step, "train_loss": 1.0}
    with (folder / "curve.jsonl").open("a") as file:
        file.write(json.dumps(point) + "\n")


def stop_after(looks: int, between: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the process to stop after so many updates; call `between` before the last."""
    asked = iter(range(looks))

    def asked_to_stop() -> bool:
        at = next(asked, looks)
        if at > 0:
            between()
        return at >= looks - 1

    monkeypatch.setattr(signals, "asked_to_stop", asked_to_stop)
    monkeypatch.setattr("time.sleep", lambda _: None)


def statuses(uri: str) -> dict[str | None, str]:
    return {run.info.run_name: run.info.status for run in runs_at(uri)}


def test_the_follower_shows_what_runs_and_what_is_added_until_it_is_asked_to_stop(
    checkpoints: Path, checked: Params, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(checkpoints, "vae")
    begin(checkpoints, "ae", finished=True)  # finished before
    steps = iter(range(100, 1000, 50))
    stop_after(2, lambda: add_point(folder, next(steps)), monkeypatch)
    with FileLock(folder / "lock"):
        track._follow(None, checked, {})
    assert statuses(uri) == {"digits-vae-seed0": "RUNNING"}
    assert len(history(uri, "autoencoder/train_loss")) > 1
    stop_after(1, lambda: None, monkeypatch)
    track._follow(None, checked, {})
    assert statuses(uri) == {"digits-vae-seed0": "KILLED"}


@pytest.mark.parametrize(("entries", "shown"), [(["vae"], {"vae"}), (None, {"vae", "ae"})])
def test_a_follower_leaves_the_entries_of_others_alone(
    entries: list[str] | None,
    shown: set[str],
    checkpoints: Path,
    checked: Params,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a cluster, workers share the folder of checkpoints."""
    for entry in ("vae", "ae"):
        begin(checkpoints, entry)
    stop_after(1, lambda: None, monkeypatch)
    track._follow(entries, checked, {})
    assert statuses(uri).keys() == {f"digits-{entry}-seed0" for entry in shown}


def test_an_mlflow_that_does_not_answer_is_announced_once_and_catches_up(
    checkpoints: Path, checked: Params, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(checkpoints, "vae")
    open_, failures = mlflow_writer.Projector.open, iter(range(3))

    def away(*arguments: Any) -> None:
        if next(failures, None) is not None:
            msg = "away\nfor now"
            raise ConnectionError(msg)
        open_(*arguments)

    monkeypatch.setattr(mlflow_writer.Projector, "open", away)
    stop_after(9, lambda: None, monkeypatch)
    track._follow(None, checked, {})
    assert statuses(uri) == {"digits-vae-seed0": "KILLED"}
    assert capsys.readouterr().out.count("does not answer, trying again: away for now\n") == 1


def test_everything_is_written_once_and_a_busy_writer_is_a_warning(
    checkpoints: Path, checked: Params, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(checkpoints, "vae")
    monkeypatch.setattr(mlflow_writer, "WAIT", 0.1)
    monkeypatch.setattr(track, "PATIENCE", {"sqlite": 0.0})
    with FileLock(f"{uri.removeprefix('sqlite:///')}.lock"):
        track._write(checked, {})
    said = capsys.readouterr().out
    assert "warning: the runs could not be written to MLflow at sqlite:" in said
    assert "another process has held the lock" in said
    assert MlflowClient(uri).get_experiment_by_name(mlflow_store.EXPERIMENT) is None
    for _ in range(2):
        track._write(checked, {})
        assert "warning" not in capsys.readouterr().out
    assert statuses(uri) == {"digits-vae-seed0": "KILLED"}
    assert history(uri, "autoencoder/train_loss") == [(50, 1.0)]


def test_what_waiting_does_not_mend_is_told_at_once(
    checkpoints: Path, checked: Params, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(checkpoints, "vae")
    slept = list[float]()
    monkeypatch.setattr("time.sleep", slept.append)
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment(mlflow_store.EXPERIMENT))
    track._write(checked, {})
    said = capsys.readouterr().out
    assert "warning: MLflow lacks some results, which are all on disk: the experiment 1 of MLflow at" in said
    assert "later" not in said
    with pytest.raises(UserError, match="mlflow experiments restore"):
        track._follow(None, checked, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://server")
    track._write(checked, {})
    assert "htp://server is not an MLflow address" in capsys.readouterr().out
    assert slept == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    track._write(checked, {})
    assert [run.info.run_name for run in runs_at(uri, "another")] == ["digits-vae-seed0"]


DATA, ENTRIES = ("digits", "photos", "mnist"), ("vae", "vae-beta4")


def test_runs_on_several_data_sets_are_told_apart(checkpoints: Path, checked: Params, uri: str) -> None:
    for dataset, entry in product(DATA, ENTRIES):
        begin(checkpoints, entry, dataset=dataset)
    track._write(checked, {})
    assert statuses(uri).keys() == {f"{data}-{entry}-seed0" for data, entry in product(DATA, ENTRIES)}
    for run in runs_at(uri):
        assert run.data.params["dataset.name"] == str(run.info.run_name).split("-")[0]
        assert run.data.params["entry.model"] == "vae"  # the same name for all entries
        assert f"{run.data.tags['group']}-seed{run.data.tags['seed']}" == run.info.run_name
