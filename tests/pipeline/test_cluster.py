"""Tests of the caller's side of a cluster: trusted schedulers, stages that may travel, free workers."""

import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import pytest

from aelab.core.errors import UserError
from pipeline.common import params
from pipeline.runner.cluster import executor as caller
from pipeline.runner.cluster import handover
from pipeline.runner.console import ConsoleLog
from pipeline.runner.local import LocalExecutor
from tests.support.parameters import DEFAULT


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("tcp://192.0.2.1:8786", "on this machine or with --trust-network"),
        ("tcp://scheduler:8786", "on this machine or with --trust-network"),
        ("192.0.2.1", "it must be tls://HOST:PORT"),
        ("http://127.0.0.1:1", "it must be tls://HOST:PORT"),
        ("tcp://127.0.0.1:1", "there is no scheduler at"),
    ],
)
def test_a_wrong_address_is_one_sentence(address: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "CONNECTS_WITHIN", 0.5)
    with pytest.raises(UserError, match=sentence):
        caller.connect(address, trusted=False)


@pytest.mark.parametrize("kind", ["version_aware", "worktree"])
def test_a_remote_that_keeps_versions_is_refused(kind: str) -> None:
    config = {"core": {"remote": "store"}, "remote": {"store": {"url": "s3://bucket", kind: True}}}
    with pytest.raises(UserError, match="the remote store keeps versions"):
        handover.shared_remote(config)


def test_what_is_secret_stays_here() -> None:
    remote = {"url": "s3://bucket", "secret_access_key": "x", "session_token": "x", "password": "x", "verify": True}
    found = handover.shared_remote({"core": {"remote": "store"}, "remote": {"store": remote}})
    assert found == {"url": "s3://bucket", "verify": True}


def test_a_worker_is_told_of_a_server_of_mlflow_and_of_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert handover._mlflow() == {"MLFLOW_TRACKING_URI": "http://server:5000", "MLFLOW_EXPERIMENT_NAME": "mine"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////here/mlflow.db")
    assert handover._mlflow() == {}


def test_a_cluster_needs_a_remote() -> None:
    with pytest.raises(UserError, match="dvc remote add --default"):
        handover.shared_remote({"core": {}, "remote": {}})


@pytest.mark.parametrize("name", ["plain.npy", "Übung.npy", 'quoted ".npy', "two\nlines.npy"])
def test_a_stage_that_reads_what_git_ignores_stays_here(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path("own").mkdir()
    Path("code").mkdir()
    Path("own", name).write_text("")
    Path(".gitignore").write_text("/own\n/made\n")

    def stage(*read: str, cached: bool = True, out: str = "made", always: bool = False) -> SimpleNamespace:
        deps = [SimpleNamespace(def_path=path) for path in read]
        outs = [SimpleNamespace(def_path=out, use_cache=cached)]
        return SimpleNamespace(deps=deps, outs=outs, always_changed=always)

    stages = {"bound": stage("code", "own"), "roundabout": stage("code/../own"), "free": stage("code", "made"),
              "shown": stage("code", cached=False),
              "looks": stage(out="lists/a.json", always=True), "reads the list": stage("code", "lists"),
              "parted": stage("code", out="parts"), "reads a part": stage("parts/one.json")}  # fmt: skip
    assert handover.stages_at_home(stages) == {
        "bound", "roundabout", "shown", "parted", "looks", "reads the list",
    }  # fmt: skip


@pytest.mark.parametrize(("read", "is_asked_for"), [("data/a", True), ("data", False), ("data/a/file", False)])
def test_only_whole_outputs_have_hashes_to_look_up(
    read: str,
    is_asked_for: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = handover.Handover.__new__(handover.Handover)
    out = SimpleNamespace(def_path="data/a", fs_path="/data/a", hash_info="hash", meta="meta")
    dep = SimpleNamespace(def_path=read, fs_path=f"/{read}", save=lambda: None)
    made.at_home = set()
    made.dvc = SimpleNamespace(alone=nullcontext())  # type: ignore[assignment]
    made.upstream = {"reads": {"writes"}}
    made.stages = {"writes": SimpleNamespace(outs=[out]), "reads": SimpleNamespace(deps=[dep])}
    asked = list[str]()
    monkeypatch.setattr(handover, "to_single_stage_lockfile", lambda _: {"deps": dep.hash_info})
    monkeypatch.setattr(made, "_find", asked.append)
    assert not made.restore("reads")
    assert bool(asked) is is_asked_for


def test_a_trusted_network_needs_no_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    monkeypatch.setattr(distributed, "Client", lambda address, **_: asked.append(address))
    caller.connect("tcp://192.0.2.1:8786", trusted=True)
    with pytest.raises(UserError, match="--trust-network"):
        caller.connect("tcp://192.0.2.1:8786", trusted=False)
    assert asked == ["tcp://192.0.2.1:8786"]


class Client:
    """Stand-in for Dask's client with the calls that find free workers."""

    status = "running"

    def __init__(self, *workers: dict[str, Any]) -> None:
        self.workers = workers

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:  # noqa: ARG002
        return {
            "workers": {
                str(i): {"name": f"w{i}", "nthreads": 1, "resources": {}} | each for i, each in enumerate(self.workers)
            }
        }


def executor(*workers: dict[str, Any], jobs: int | None = None) -> caller.ClusterExecutor:
    local = LocalExecutor(params.check(DEFAULT, variants=False), 1, ConsoleLog(), dvc=None)  # type: ignore[arg-type]
    nothing = SimpleNamespace(at_home=set())
    return caller.ClusterExecutor("tcp://127.0.0.1:1", Client(*workers), nothing, local, jobs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workers", "sentence"),
    [([{"nthreads": 4}], "start w0 with --nthreads 1"), ([], "there has been no worker at")],
)
def test_workers_that_cannot_do_it_are_one_sentence(workers: list[dict[str, Any]], sentence: str) -> None:
    made = executor(*workers)
    made.seen -= caller.WORKERS_WITHIN + 1
    with pytest.raises(UserError, match=sentence):
        made.begin([])


def test_there_is_room_for_as_many_stages_as_workers() -> None:
    workers: list[dict[str, Any]] = [{}, {"resources": {"GPU": 1.0}}, {}]
    assert executor(*workers)._room() == (3, 1, 1)
    assert executor(*workers, jobs=2)._room() == (2, 1, 1)
    assert executor()._room() == (1, 0, 0)  # one stage waits for the first worker
