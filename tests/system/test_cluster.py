"""Stages on a cluster: a scheduler and workers as processes in clones of their own, which share an S3 server alone."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import psutil
import pytest
from ruamel.yaml import YAML

from aelab.core.errors import UserError
from pipeline import RUNNER
from pipeline.common import params
from pipeline.runner.cluster import executor as caller
from pipeline.runner.cluster import handover
from pipeline.runner.console import ConsoleLog
from pipeline.runner.local import LocalExecutor
from tests.support.cluster import Cluster, certificate, cluster
from tests.support.parameters import DEFAULT
from tests.support.project import Project, outcomes
from tests.support.s3 import S3, s3, use

TOY = {
    "first": {"cmd": "seq 100 > first.txt", "outs": ["first.txt"]},
    "slow": {
        "foreach": ["a", "b", "c"],
        "do": {
            "cmd": "echo ${item} begins && sleep 2 && (cat first.txt && echo ${item}) > ${item}.txt",
            "deps": ["first.txt"],
            "outs": ["${item}.txt"],
        },
    },
    "report": {
        "cmd": "cat ?.txt > all.csv",
        "deps": ["a.txt", "b.txt", "c.txt"],
        "outs": [{"all.csv": {"cache": False}}],
    },
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3(tmp_path_factory.mktemp("s3") / "store") as server:
        yield server


@pytest.fixture
def toy(tmp_path: Path, store: S3) -> Project:
    """A project whose stages sleep."""
    return project(tmp_path / "project", store, tmp_path.name, TOY)


def project(folder: Path, store: S3, name: str, stages: dict[str, Any] | None = None) -> Project:
    made = Project(folder)
    if stages:
        YAML().dump({"stages": stages}, folder / "dvc.yaml")
        with (folder / ".gitignore").open("a") as file:
            file.write("/*.txt\n")
    use(folder, store, name)
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "remote")
    return made


def command(running: Cluster, *options: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.runner.repro", "--scheduler", running.address, *options]


def environment(made: Project, running: Cluster) -> dict[str, str]:
    return running.environment() | {"PYTHONPATH": str(made.folder / "src")}


def run(made: Project, running: Cluster, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    own = environment(made, running) | more
    return subprocess.run(
        command(running, *options), cwd=made.folder, env=own, capture_output=True, text=True, check=False
    )


def begin(made: Project, running: Cluster, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(running, *options), cwd=made.folder, env=environment(made, running), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def until(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """What a process says, up to the first line that `pattern` is found in."""
    said = []
    for line in process.stdout or ():
        said.append(line)
        if re.search(pattern, line):
            return said
    raise AssertionError("".join(said))


def rest(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=120)
    return said


def entries(folder: Path) -> dict[str, Any]:
    """The stages of dvc.lock without what differs between equal runs: what is measured, and what is made of it."""
    stages = YAML(typ="safe", pure=True).load(folder / "dvc.lock")["stages"]
    for stage in stages.values():
        for side in ("deps", "outs"):
            kept = [each for each in stage.get(side, []) if not each["path"].startswith(("provenance", "reports"))]
            stage[side] = kept
    return dict(stages)


def worker_of(said: list[str]) -> str:
    (found,) = re.findall(r"\((worker\d)\)", said[-1])
    return found


def test_a_cluster_leaves_what_one_machine_leaves(tmp_path: Path, store: S3) -> None:
    made = project(tmp_path / "project", store, "real")
    params = made.params()
    params["variants"] = {name: params["variants"][name] for name in ("dae", "vqvae")}
    params["corruption"]["train"] = {"masked": params["corruption"]["train"]["masked"]}
    params["seeds"] = [0]
    made.write_params(params)  # is not committed: workers get what is checked out
    with cluster(tmp_path / "cluster", made.folder, 2, store) as running:
        done = run(made, running)
        assert done.returncode == 0, done.stdout + done.stderr
        assert {"train@dae", "train@vqvae", "evaluate@vqvae", "report"} <= set(outcomes(done.stdout, "done"))
        assert len(set(re.findall(r"start.*\((worker\d)\)", done.stdout))) == 2
        assert "train@vqvae | vqvae-seed0 autoencoder: step" in done.stdout
        assert (made.folder / "reports/comparison.html").exists()
        again = run(made, running)
        assert "up to date" in again.stdout
        fresh = project(tmp_path / "fresh", store, "real")
        fresh.write_params(params)
        cached = run(fresh, running)
        assert cached.returncode == 0, cached.stdout + cached.stderr
        assert outcomes(cached.stdout, "done") == ["sources", "report"]  # which run here
        assert "train@vqvae" in outcomes(cached.stdout, "cached")
    alone = project(tmp_path / "alone", store, "nowhere")
    alone.write_params(params)
    alone.side_by_side()
    here = entries(alone.folder)
    assert entries(made.folder) == here
    assert entries(fresh.folder) == here
    noted = made.folder / "provenance/train/vqvae/training.json"
    text = noted.read_text()
    assert '"params.yaml"' in text  # what had changed since the commit
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=made.folder, capture_output=True, text=True, check=True)
    assert head.stdout.strip() in text


def test_a_worker_that_dies_has_its_stage_run_elsewhere(toy: Project, tmp_path: Path, store: S3) -> None:
    with cluster(tmp_path / "cluster", toy.folder, 2, store) as running:
        process = begin(toy, running)
        running.kill(worker_of(until(process, "start      slow@")))
        said = rest(process)
        assert process.returncode == 0, said
        assert len(outcomes(said, "again")) == 1
        assert sorted(outcomes(said, "done")) == ["report", "slow@a", "slow@b", "slow@c"]
    assert (toy.folder / "all.csv").read_text().count("100") == 3


def test_what_a_dead_worker_had_begun_ends(tmp_path: Path, store: S3) -> None:
    stages = {"only": {"cmd": "python -m pipeline.stages.corrupt only", "outs": ["only.txt"]}}
    made = project(tmp_path / "project", store, "orphan", stages)
    (made.folder / "pipeline/stages/corrupt.py").write_text(  # a stage, as far as its end is concerned
        "import time\nfrom pathlib import Path\nfrom pipeline.common import stage\n"
        "def work(params, provenance):\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "stage.run(work, None, variants=False)\n"
    )
    with cluster(tmp_path / "cluster", made.folder, 1, store) as running:
        process = begin(made, running)
        until(process, "begun")
        (stage,) = [
            p
            for p in psutil.process_iter(["cmdline"])
            if (p.info["cmdline"] or [])[-2:] == ["pipeline.stages.corrupt", "only"]
        ]
        running.kill("worker0")
        stage.wait(10)
        process.send_signal(signal.SIGINT)
        rest(process)


def test_an_interrupted_run_stops_its_workers(toy: Project, tmp_path: Path, store: S3) -> None:
    with cluster(tmp_path / "cluster", toy.folder, 1, store) as running:
        process = begin(toy, running)
        until(process, "start      slow@")
        process.send_signal(signal.SIGINT)
        rest(process)
        assert process.returncode == 130
        ended = time.monotonic()
        done = run(toy, running)  # the worker is free at once, and what had finished is kept
        assert time.monotonic() - ended < 60
        assert done.returncode == 0, done.stdout + done.stderr
        assert "first" not in outcomes(done.stdout, "done")


def test_a_scheduler_that_dies_ends_in_one_sentence(toy: Project, tmp_path: Path, store: S3) -> None:
    with cluster(tmp_path / "cluster", toy.folder, 2, store) as running:
        process = begin(toy, running)
        until(process, "start      slow@")
        running.kill("scheduler")
        said = rest(process)
    assert process.returncode == 1
    assert f"the scheduler at {running.address} is gone; what has finished is kept" in said
    assert "Traceback" not in said
    assert "first" in entries(toy.folder)


def test_a_stage_that_fails_says_why(toy: Project, tmp_path: Path, store: S3) -> None:
    toy.git("rm", "--quiet", "--cached", "README.md")
    stages = TOY | {"bad": {"cmd": "echo this is why && false", "outs": ["bad.txt"]}}
    YAML().dump({"stages": stages}, toy.folder / "dvc.yaml")
    with cluster(tmp_path / "cluster", toy.folder, 1, store) as running:
        done = run(toy, running)
    assert done.returncode == 1
    assert "bad failed. Its output, from logs/bad.log" in done.stderr
    assert "this is why" in done.stderr
    assert "report" in outcomes(done.stdout, "done")  # which does not depend on it


def test_a_stage_that_every_worker_dies_of_has_failed(tmp_path: Path, store: S3) -> None:
    stages = {
        "deadly": {"cmd": f"kill -9 ${RUNNER} && echo > deadly.txt", "outs": ["deadly.txt"]},
        "well": TOY["first"],
    }
    made = project(tmp_path / "project", store, "deadly", stages)
    with cluster(tmp_path / "cluster", made.folder, 1, store) as running:
        done = run(made, running)
    assert done.returncode == 1
    assert "every worker that ran it died, 4 in all" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(entries(made.folder)) == {"well"}


def test_what_ran_here_before_goes_to_workers(toy: Project, tmp_path: Path, store: S3) -> None:
    toy.side_by_side()
    shutil.rmtree(toy.folder / ".dvc/cache/runs")
    stages = TOY | {"more": {"cmd": "wc -l < a.txt > more.txt", "deps": ["a.txt"], "outs": ["more.txt"]}}
    YAML().dump({"stages": stages}, toy.folder / "dvc.yaml")
    with cluster(tmp_path / "cluster", toy.folder, 1, store) as running:
        done = run(toy, running)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcomes(done.stdout, "done") == ["more"]


def test_stages_wait_for_a_store_that_is_away(toy: Project, tmp_path: Path, store: S3) -> None:
    with cluster(tmp_path / "cluster", toy.folder, 1, store) as running:
        process = begin(toy, running)
        until(process, "start      slow@")
        store.kill()
        time.sleep(4)
        store.start()
        said = rest(process)
    assert process.returncode == 0, said
    assert sorted(outcomes(said, "done")) == ["report", "slow@a", "slow@b", "slow@c"]


def test_a_wrong_secret_is_one_sentence(toy: Project, tmp_path: Path, store: S3) -> None:
    with cluster(tmp_path / "cluster", toy.folder, 0, store) as running:
        done = run(toy, running, AWS_SECRET_ACCESS_KEY="wrong")  # noqa: S106
    assert done.returncode == 1
    assert "does not" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_encrypted_cluster_takes_whom_it_knows(tmp_path: Path, store: S3) -> None:
    made = project(tmp_path / "project", store, "tls", {"first": TOY["first"]})
    with cluster(tmp_path / "cluster", made.folder, 1, store, encrypted=True) as running:
        (tmp_path / "other").mkdir()
        for other, sentence in (
            (dict.fromkeys(running.tls, ""), f"{running.address} asks for certificates"),
            (dict.fromkeys(running.tls, "none.pem"), "No such file"),
            (certificate(tmp_path / "other"), f"there is no scheduler at {running.address}"),
        ):
            stranger = run(made, running, **other)
            assert stranger.returncode == 1
            assert sentence in stranger.stderr
            assert "Traceback" not in stranger.stderr
        done = run(made, running)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "first" in entries(made.folder)


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

    def stage(*read: str, cached: bool = True, out: str = "made") -> SimpleNamespace:
        deps = [SimpleNamespace(def_path=path) for path in read]
        return SimpleNamespace(deps=deps, outs=[SimpleNamespace(def_path=out, use_cache=cached)])

    stages = {"bound": stage("code", "own"), "roundabout": stage("code/../own"), "free": stage("code", "made"),
              "shown": stage("code", cached=False),
              "parted": stage("code", out="parts"), "reads a part": stage("parts/one.json")}  # fmt: skip
    assert handover.stages_at_home(stages) == {"bound", "roundabout", "shown", "parted"}


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
    """What is asked of Dask's when there is room to be found."""

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
    assert executor()._room() == (1, 0, 0)  # one waits for the first worker
