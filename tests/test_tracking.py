import concurrent.futures
import contextlib
import json
import math
import multiprocessing
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from autoencoders import checkpoint, tracking
from autoencoders.champions import ALIAS, Candidate, Champion, rule
from autoencoders.tracking import FAILED, FINISHED, KILLED, RUNNING, Projector, Result, Run
from faults import servers
from tests.conftest import IMAGE, PARAMETERS

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own, about the packages it uses


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(tmp_path: Path, empty: Path) -> str:
    shutil.copy(empty, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return toy_run(tmp_path)


def toy_run(folder: Path) -> Run:
    """A run whose model and figure lie in `folder`."""
    torch.manual_seed(0)
    weights, figure = folder / "seed0.safetensors", folder / "figure.png"
    checkpoint.save(checkpoint.build("ae", IMAGE, PARAMETERS["ae"]), weights)
    figure.write_bytes(b"png")
    return Run(
        name="ae_wide-beta4-seed0",
        about="The **plain** one.",
        training="t",
        status=FINISHED,
        started=1000.0,
        parameters={"ae.code": 4},
        tags={"device": "cpu"},
        history=[
            {"phase": "autoencoder", "step": 50, "time": 1010.5, "train_loss": 3.0, "train_rate": None},
            {"phase": "autoencoder", "step": 50, "time": 1011.0, "validation_loss": 4.0},
            {"phase": "autoencoder", "step": 100, "time": 1020.0, "train_loss": 2.0},
            {"phase": "autoencoder", "step": 150, "time": 1030.0, "train_loss": math.nan},
        ],
        result=Result(
            fingerprint="f",
            ended=1060.0,
            metrics={"test/mse": 0.5, "test/neg_elbo": math.nan, "test/psnr": math.inf, "cost/train_seconds": 60.0},
            figures=[figure],
            weights=weights,
            data="toy",
            data_digest="0123456789abcdef0123456789abcdef",
            image=IMAGE,
        ),
    )


def other(run: Run, **changes: Any) -> Run:
    """The run with another result."""
    assert run.result is not None
    return replace(run, result=replace(run.result, **changes))


def unfinished(run: Run, points: int = 2, status: str = RUNNING) -> Run:
    """The run while it was in training."""
    return replace(run, status=status, history=run.history[:points], result=None)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_write_model", lambda *_: None)


def _projector(uri: str, tmp_path: Path) -> Projector:
    projector = Projector(uri, tmp_path / "mlruns")
    projector.open("columns", ["test/mse"])
    return projector


def _project(runs: list[Run], uri: str, tmp_path: Path) -> int:
    projector = _projector(uri, tmp_path)
    return sum(projector.project(run) is True for run in runs)


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
    assert (data.dataset.name, data.dataset.digest) == ("toy", "0123456789abcdef0123456789abcdef")
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
        assert run.result is not None
        assert run.result.weights is not None
        expected = checkpoint.load(run.result.weights).reconstruct(torch.from_numpy(x)).numpy()
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
    assert _view(experiment)["selectedColumns"] == ["metrics.`test/mse`"]


def test_the_link_leads_to_the_runs_from_the_first_point_on(uri: str, tmp_path: Path) -> None:
    Projector(uri, tmp_path / "mlruns").open("columns", [])
    assert _view(_experiment(uri))["selectedColumns"] == [f"metrics.`{name}`" for name in tracking.LOSSES]
    Projector(uri, tmp_path / "mlruns").open("columns", ["test/mse"])
    Projector(uri, tmp_path / "mlruns").open("columns", [])
    assert _view(_experiment(uri))["selectedColumns"] == ["metrics.`test/mse`"]


@pytest.mark.usefixtures("no_model")
def test_an_older_experiment_gets_what_it_lacks(run: Run, uri: str, tmp_path: Path) -> None:
    MlflowClient(uri).create_experiment(tracking.EXPERIMENT, (tmp_path / "elsewhere").as_uri(), {"team": "x"})
    _project([run], uri, tmp_path)
    tags = _experiment(uri).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["team"] == "x"
    Projector(uri, tmp_path / "mlruns").open("today's columns", ["test/fid"])
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
    assert _project([run, other(run, fingerprint="g")], uri, tmp_path) == 1
    assert _project([run, other(run, fingerprint="g"), unfinished(run)], uri, tmp_path) == 0
    assert len(_runs(uri)) == 2


def test_a_projection_that_broke_off_is_taken_up(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_terminated", away)
        with pytest.raises(ConnectionError):
            _project([run], uri, tmp_path)
    assert _project([run], uri, tmp_path) == 0  # the one that broke off still has its lease
    monkeypatch.setattr("autoencoders.tracking.psutil.pid_exists", lambda _: False)
    assert _project([run], uri, tmp_path) == 1
    (found,) = _runs(uri)
    assert found.info.status == "FINISHED"
    assert found.data.tags["complete"] == "yes"
    assert len(MlflowClient(uri).search_logged_models([found.info.experiment_id])) == 1
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0), (100, 2.0)]


def test_a_diverged_run_is_failed_and_has_no_model(run: Run, uri: str, tmp_path: Path) -> None:
    diverged = replace(other(run, weights=None, metrics={"cost/train_seconds": 60.0}), status=FAILED)
    _project([diverged], uri, tmp_path)
    (found,) = _runs(uri)
    assert found.info.status == "FAILED"
    assert found.data.metrics["cost/train_seconds"] == 60.0
    assert not MlflowClient(uri).search_logged_models([found.info.experiment_id])


def champion(fingerprint: str = "f") -> Champion[str]:
    return Champion("denoising", 0.25, 0.5, Candidate("ae", {"denoising_mse": 0.25}, None, fingerprint))


def registered(uri: str) -> list[tuple[str, list[str]]]:
    """The versions of what is registered, each with the run's fingerprint and its aliases."""
    client = MlflowClient(uri)
    versions = [client.get_model_version(found.name, found.version) for found in client.search_model_versions()]
    return sorted((version.tags["fingerprint"], version.aliases) for version in versions)


def test_the_champion_is_who_was_crowned_last_and_no_run_has_two_versions(run: Run, uri: str, tmp_path: Path) -> None:
    projector = _projector(uri, tmp_path)
    assert projector.crown(champion()) is None  # its run is not there yet
    assert not MlflowClient(uri).search_registered_models()
    projector.project(run)
    assert projector.crown(champion()) is True
    assert projector.crown(champion()) is False
    assert registered(uri) == [("f", [ALIAS])]
    version = MlflowClient(uri).get_model_version_by_alias("denoising", ALIAS)
    assert version.description == "denoising_mse on the validation split: 0.25, mean of the entry's seeds 0.5"
    assert version.run_id == _runs(uri)[0].info.run_id
    assert MlflowClient(uri).get_registered_model("denoising").description == rule("denoising")
    assert not [key for key in _runs(uri)[0].data.tags if key.startswith(tracking.LEASE)]

    projector.project(replace(other(run, fingerprint="g"), training="u"))
    assert projector.crown(champion("g")) is True
    assert registered(uri) == [("f", []), ("g", [ALIAS])]
    assert projector.crown(champion("f")) is True
    assert registered(uri) == [("f", [ALIAS]), ("g", [])]
    assert projector.crown(champion("none")) is None
    assert registered(uri) == [("f", [ALIAS]), ("g", [])]
    MlflowClient(uri).update_registered_model("denoising", "the rule of before")
    assert projector.crown(champion("f")) is True
    assert MlflowClient(uri).get_registered_model("denoising").description == rule("denoising")


def test_two_that_crown_at_once_make_one_version(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks for versions before the first has made one; only its lease keeps it from making another."""
    first, second = _projector(uri, tmp_path), _projector(uri, tmp_path)
    first.project(run)
    register = Projector._register
    answers: list[bool | None] = []

    def meanwhile(self: Projector, *arguments: Any) -> None:
        if self is first:
            answers.append(second.crown(champion()))
        register(self, *arguments)

    monkeypatch.setattr(Projector, "_register", meanwhile)
    assert first.crown(champion()) is True
    assert answers == [None]
    assert registered(uri) == [("f", [ALIAS])]
    monkeypatch.setattr(Projector, "_others", lambda *_: [])
    monkeypatch.setattr(tracking, "_registered", lambda *_: None)
    assert first.crown(champion()) is True
    assert answers == [None, True]  # without leases both go on


def history(uri: str, key: str) -> list[tuple[int, float]]:
    """The points of the only run."""
    (found,) = _runs(uri)
    return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(found.info.run_id, key)]


@pytest.mark.usefixtures("no_model")
def test_a_killed_training_that_goes_on_is_one_run_and_one_curve(run: Run, uri: str, tmp_path: Path) -> None:
    projector = _projector(uri, tmp_path)
    for points in (1, 2):
        projector.project(unfinished(run, points))
        assert _runs(uri)[0].info.status == "RUNNING"
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0)]
    projector.project(unfinished(run, 2, KILLED))
    assert _runs(uri)[0].info.status == "KILLED"
    later = _projector(uri, tmp_path)
    later.project(unfinished(run, 3))
    assert _runs(uri)[0].info.status == "RUNNING"
    later.leave("t")
    _project([run], uri, tmp_path)
    assert _runs(uri)[0].info.status == "FINISHED"
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0), (100, 2.0)]
    assert history(uri, "autoencoder/validation_loss") == [(50, 4.0)]
    assert not [key for key in _runs(uri)[0].data.tags if key.startswith(tracking.LEASE)]


@pytest.mark.usefixtures("no_model")
def test_begun_with_other_parameters_it_begins_anew(run: Run, uri: str, tmp_path: Path) -> None:
    projector = _projector(uri, tmp_path)
    projector.project(unfinished(run, 2, KILLED))
    _project([replace(run, parameters={"ae.code": 5})], uri, tmp_path)
    assert _runs(uri)[0].data.params == {"ae.code": "5"}
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0), (100, 2.0)]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("lease", "taken"),
    [
        ("elsewhere.77.a {later}", None),
        ("elsewhere.77.a {over}", True),
        ("{here}.4194304.a {later}", True),  # no process of this machine has such a number
        ("{here}.1.a {later}", None),
    ],
)
def test_a_run_that_another_projector_writes_is_left_to_it(
    lease: str, taken: object, run: Run, uri: str, tmp_path: Path
) -> None:
    projector = _projector(uri, tmp_path)
    projector.project(unfinished(run))
    projector.leave("t")
    now = time.time()
    key, until = lease.format(here=projector.host, later=f"{now + 50:.0f}", over=f"{now - 1:.0f}").split()
    MlflowClient(uri).set_tag(_runs(uri)[0].info.run_id, tracking.LEASE + key, until)
    assert _projector(uri, tmp_path).project(run) is taken
    assert _runs(uri)[0].data.tags["complete"] == ("yes" if taken else "no")
    assert len(_runs(uri)) == 1


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(("other", "taken"), [(2, None), (1, True)])
def test_machines_of_one_name_are_told_apart(
    other: int, taken: object, run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is not on this machine may live on another one; on the same it is gone: the negative control."""
    monkeypatch.setattr("autoencoders.tracking.psutil.pid_exists", lambda _: False)
    monkeypatch.setattr("autoencoders.tracking.uuid.getnode", lambda: 1)
    _projector(uri, tmp_path).project(unfinished(run))
    monkeypatch.setattr("autoencoders.tracking.uuid.getnode", lambda: other)
    assert _projector(uri, tmp_path).project(run) is taken


@pytest.mark.usefixtures("no_model")
def test_a_run_that_another_machine_wrote_after_the_look_is_not_written_twice(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has begun, written and left between the first's look for the run and its making one."""

    def race() -> list[bool | None]:
        first, second = _projector(uri, tmp_path), _projector(uri, tmp_path)
        answers: list[bool | None] = []
        found = Projector._found

        def first_look(self: Projector, of: Run) -> Any:
            if self is first and not answers:
                before = found(self, of)
                answers.append(second.project(of))
                return before
            return found(self, of)

        with monkeypatch.context() as patch:
            patch.setattr(Projector, "_found", first_look)
            return [first.project(run), *answers]

    assert race() == [None, True]
    assert len(_runs(uri)) == 1
    assert _projector(uri, tmp_path).project(run) is False
    MlflowClient(uri).delete_run(_runs(uri)[0].info.run_id)
    monkeypatch.setattr(tracking, "_shows", lambda *_: False)
    assert race() == [True, True]
    assert len(_runs(uri)) == 2


@pytest.mark.usefixtures("no_model")
def test_a_long_projection_renews_its_lease(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector = _projector(uri, tmp_path)
    projector.project(unfinished(run, 1))
    before = _runs(uri)[0].data.tags[projector.me]
    now = time.time()
    monkeypatch.setattr("autoencoders.tracking.time.time", lambda: now + 40)
    projector.project(unfinished(run, 2))
    assert float(_runs(uri)[0].data.tags[projector.me]) > float(before) + 30


def _write_ten(uri: str, folder: Path) -> None:
    run = Run("n", "a", "t", FINISHED, 1000.0, {"p": 1}, {}, [], None)
    runs = [replace(run, training=f"t{i}", name=f"n{i}") for i in range(10)]
    left = list(runs)
    until = time.monotonic() + 60
    projector = Projector(uri, folder / "mlruns")
    while left and time.monotonic() < until:
        with contextlib.suppress(Exception):
            projector.open("columns", [])
            left = [run for run in left if projector.project(replace(run, status=RUNNING)) is None]
            for each in runs:
                projector.leave(each.training)
        time.sleep(0.05)


def first_time_writers(uri: str, folder: Path) -> list[str | None]:
    """The names of the runs after several processes wrote the same ten to a database that was not there."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(3, context) as pool:
        wait = [pool.submit(_write_ten, uri, folder) for _ in range(3)]
        for each in wait:
            each.result()
    return [found.info.run_name for found in _runs(uri)]


def test_several_first_time_writers_write_each_run_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    assert sorted(map(str, first_time_writers(uri, tmp_path))) == [f"n{i}" for i in range(10)]


@pytest.mark.usefixtures("no_model")
def test_without_leases_a_run_would_be_written_twice(
    run: Run, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two look before either has created: with leases the second to create notices the first."""

    def race() -> list[bool | None]:
        projectors = [_projector(uri, tmp_path) for _ in range(2)]
        found = Projector._found
        blind = [True, True]

        def first_look(self: Projector, of: Run) -> Any:
            at = projectors.index(self)
            if blind[at]:
                blind[at] = False
                return []
            return found(self, of)

        with monkeypatch.context() as patch:
            patch.setattr(Projector, "_found", first_look)
            return [projector.project(unfinished(run)) for projector in projectors]

    assert race() == [True, None]
    assert len(_runs(uri)) == 1
    MlflowClient(uri).delete_run(_runs(uri)[0].info.run_id)
    monkeypatch.setattr(Projector, "_others", lambda *_: [])
    assert race() == [True, True]
    assert len(_runs(uri)) == 2


@pytest.mark.usefixtures("no_model")
def test_a_locked_database_is_waited_for(run: Run, uri: str, tmp_path: Path) -> None:
    projector = _projector(uri, tmp_path)
    locked = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
    locked.execute("begin exclusive")
    threading.Timer(3.0, lambda: locked.execute("rollback")).start()
    until = time.monotonic() + 60
    done = False
    while not done and time.monotonic() < until:
        with contextlib.suppress(Exception):
            done = projector.project(run) is True
    assert done
    locked.close()
    assert history(uri, "autoencoder/train_loss") == [(50, 3.0), (100, 2.0)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


class Broken(BaseHTTPRequestHandler):
    """Answers 500 to everything."""

    def _answer(self) -> None:
        self.send_response(500)
        self.end_headers()
        self.wfile.write(b"Internal Server Error")

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def broken_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_away_hangs_or_is_broken_is_an_exception_within_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging, broken_server() as broken:
        for uri in (f"http://127.0.0.1:{servers.free_port()}", f"http://127.0.0.1:{hanging.getsockname()[1]}", broken):
            began = time.monotonic()
            with pytest.raises(Exception, match=r"."):
                _projector(uri, tmp_path)
            assert time.monotonic() - began < 20


def _through_outages(run: Run, server: servers.Server, tmp_path: Path) -> None:
    """A training that is followed while its server hangs and is killed."""
    projector = _projector(server.uri, tmp_path)
    projector.project(unfinished(run, 1))
    server.signal(signal.SIGSTOP)
    with pytest.raises(Exception, match=r"."):
        projector.project(unfinished(run, 2))
    server.signal(signal.SIGCONT)
    projector.project(unfinished(run, 2))
    server.kill()
    with pytest.raises(Exception, match=r"."):
        projector.project(unfinished(run, 3))
    server.start()
    projector.project(unfinished(run, 3))
    projector.leave("t")
    assert _projector(server.uri, tmp_path).project(run) is True
    (found,) = _runs(server.uri)
    assert found.info.status == "FINISHED"
    assert history(server.uri, "autoencoder/train_loss") == [(50, 3.0), (100, 2.0)]
    assert history(server.uri, "autoencoder/validation_loss") == [(50, 4.0)]
    figures = MlflowClient(server.uri).list_artifacts(found.info.run_id, "figures")
    assert [figure.path for figure in figures] == ["figures/figure.png"]
    assert found.info.artifact_uri.startswith("mlflow-artifacts:")  # through the server, which alone has the folder
    (logged,) = MlflowClient(server.uri).search_logged_models([found.info.experiment_id])
    assert logged.name == "ae_wide-beta4-seed0"
    assert [projector.crown(champion()) for _ in range(2)] == [True, False]
    assert registered(server.uri) == [("f", [ALIAS])]
    weights = list(Path(mlflow.artifacts.download_artifacts(f"models:/denoising@{ALIAS}")).rglob("*.safetensors"))
    assert run.result is not None
    assert run.result.weights is not None
    assert [path.read_bytes() for path in weights] == [run.result.weights.read_bytes()]


@pytest.mark.usefixtures("impatient")
def test_through_outages_of_a_server_on_sqlite(run: Run, tmp_path: Path) -> None:
    with servers.serving(tmp_path / "server") as server:
        _through_outages(run, server, tmp_path)


@pytest.mark.skipif(servers.postgresql_programs() is None, reason="needs PostgreSQL: Debian's package postgresql")
@pytest.mark.usefixtures("impatient")
def test_through_outages_of_a_server_on_postgresql(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("postgresql")
    with servers.postgresql(place / "database") as database, servers.serving(place / "server", database) as server:
        _through_outages(run, server, place)
