"""Stages on a cluster: a scheduler and workers as processes in their own clones, which share only an S3 server."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from aelab.core.errors import UserError
from pipeline import RUNNER
from pipeline.runner.cluster import executor
from tests.support.cluster import Cluster, certificate, cluster, known_by
from tests.support.processes import command_of, gone, started, wait_for, working_in
from tests.support.project import Project, outcomes
from tests.support.s3 import S3, s3, use

FIRST = {"cmd": "seq 100 > first.txt", "outs": ["first.txt"]}


def toy_stages(gate: Path) -> dict[str, Any]:
    """Return stages, of which three, called slow, wait for the file `gate`."""
    slow = f"echo ${{item}} begins && until test -e {gate}; do sleep 0.05; done"
    return {
        "first": FIRST,
        "slow": {
            "foreach": ["a", "b", "c"],
            "do": {
                "cmd": f"{slow} && (cat first.txt && echo ${{item}}) > ${{item}}.txt",
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


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, store: S3) -> Iterator[Cluster]:
    """Start a scheduler and two workers for all tests; a worker starts in a clone and can run any project's code."""
    place = tmp_path_factory.mktemp("cluster")
    with cluster(place / "cluster", Project(place / "project").folder, 2, store) as running:
        yield running


@pytest.fixture
def running(workers: Cluster) -> Cluster:
    """Return the cluster, after restarting processes that another test has killed."""
    workers.ready(2)
    return workers


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Yield a path without a file; the toy's slow stages wait for the file, at most until the test ends."""
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


@pytest.fixture
def toy(tmp_path: Path, store: S3, gate: Path) -> Project:
    return project(tmp_path / "project", store, tmp_path.name, toy_stages(gate))


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


def run(made: Project, running: Cluster, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    own = running.environment() | more
    return subprocess.run(
        command(running, *options), cwd=made.folder, env=own, capture_output=True, text=True, check=False
    )


def begin(made: Project, running: Cluster, *options: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(command(running, *options), cwd=made.folder, env=running.environment())


def until(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Return the output of a process, up to the first line that matches `pattern`."""
    said = []
    for line in process.stdout or ():
        said.append(line)
        if re.search(pattern, line):
            return said
    raise AssertionError("".join(said))


def rest(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate()
    return said


def waiting(running: Cluster, gate: Path) -> list[psutil.Process]:
    """Return the shells on workers that wait for a gate."""
    return [each for each in working_in(running.folder) if any(str(gate) in word for word in command_of(each))]


def entries(folder: Path) -> dict[str, Any]:
    """Return the stages of dvc.lock without values that differ between equal runs, such as times."""
    stages = YAML(typ="safe", pure=True).load(folder / "dvc.lock")["stages"]
    for stage in stages.values():
        for side in ("deps", "outs"):
            kept = [each for each in stage.get(side, []) if not each["path"].startswith(("provenance", "reports"))]
            stage[side] = kept
    return dict(stages)


def worker_of(said: list[str]) -> str:
    (found,) = re.findall(r"\((worker\d)\)", said[-1])
    return found


def test_a_cluster_leaves_what_one_machine_leaves(
    finished: Project, running: Cluster, tmp_path: Path, store: S3
) -> None:
    made = project(tmp_path / "project", store, "real")
    params = finished.params()
    params["variants"] = {"vqvae": params["variants"]["vqvae"]}
    params["corruption"]["train"] = {}
    made.write_params(params)  # not committed: workers get the checked-out files
    done = run(made, running)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"train@vqvae", "evaluate@vqvae", "report"} <= set(outcomes(done.stdout, "done"))
    assert len(set(re.findall(r"start.*\((worker\d)\)", done.stdout))) == 2
    assert "train@vqvae | vqvae-seed0 autoencoder: step" in done.stdout
    assert (made.folder / "reports/comparison.html").exists()
    again = run(made, running)
    assert "up to date" in again.stdout
    fresh = project(tmp_path / "fresh", store, "real")
    fresh.write_params(params)
    cached = run(fresh, running)
    assert cached.returncode == 0, cached.stdout + cached.stderr
    assert outcomes(cached.stdout, "done") == ["sources", "report"]  # these run on this machine
    assert "train@vqvae" in outcomes(cached.stdout, "cached")
    assert entries(fresh.folder) == entries(made.folder)
    here, there = entries(finished.folder), entries(made.folder)
    assert {"download", "noise", "classify", "train@vqvae", "evaluate@vqvae"} < there.keys() < here.keys()
    fewer = dict.fromkeys(("report", "sources"))  # with fewer entries
    assert there | fewer == {name: here[name] for name in there} | fewer
    noted = made.folder / "provenance/train/vqvae/training.json"
    text = noted.read_text()
    assert '"params.yaml"' in text  # the file changed since the commit
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=made.folder, capture_output=True, text=True, check=True)
    assert head.stdout.strip() in text


def test_a_worker_that_dies_has_its_stage_run_elsewhere(toy: Project, running: Cluster, gate: Path) -> None:
    with begin(toy, running) as process:
        running.kill(worker_of(until(process, "start      slow@")))
        gate.touch()
        said = rest(process)
    assert process.returncode == 0, said
    assert len(outcomes(said, "again")) == 1
    assert sorted(outcomes(said, "done")) == ["report", "slow@a", "slow@b", "slow@c"]
    assert (toy.folder / "all.csv").read_text().count("100") == 3


def test_what_a_dead_worker_had_begun_ends(running: Cluster, tmp_path: Path, store: S3) -> None:
    stages = {"only": {"cmd": "python -m pipeline.stages.corrupt only", "outs": ["only.txt"]}}
    made = project(tmp_path / "project", store, "orphan", stages)
    (made.folder / "pipeline/stages/corrupt.py").write_text(  # a stand-in for a stage
        "import time\nfrom pathlib import Path\nfrom pipeline.common import stage\n"
        "def work(params, provenance):\n    print('begun', flush=True)\n    while True:\n        time.sleep(1)\n"
        "stage.run(work, None, variants=False)\n"
    )
    with begin(made, running) as process:
        (worker,) = re.findall(r"start .*\((worker\d)\)", "".join(until(process, "begun")))
        (stage,) = [
            each
            for each in working_in(running.folder / worker)
            if command_of(each)[-2:] == ["pipeline.stages.corrupt", "only"]
        ]
        running.kill(worker)
        assert gone([stage])
        process.send_signal(signal.SIGINT)
        rest(process)


def test_an_interrupted_run_stops_its_workers(toy: Project, running: Cluster, gate: Path) -> None:
    with begin(toy, running) as process:
        until(process, "start      slow@")
        shells = wait_for(lambda: waiting(running, gate))
        process.send_signal(signal.SIGINT)
        rest(process)
    assert process.returncode == 130
    assert gone(shells)  # although their gate is closed
    gate.touch()
    done = run(toy, running)  # the workers are free, and finished stages are kept
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first" not in outcomes(done.stdout, "done")


def test_a_stage_that_fails_says_why(toy: Project, running: Cluster, gate: Path) -> None:
    toy.git("rm", "--quiet", "--cached", "README.md")
    gate.touch()
    stages = toy_stages(gate) | {"bad": {"cmd": "echo this is why && false", "outs": ["bad.txt"]}}
    YAML().dump({"stages": stages}, toy.folder / "dvc.yaml")
    done = run(toy, running)
    assert done.returncode == 1
    assert "bad failed. Its output, from logs/bad.log" in done.stderr
    assert "this is why" in done.stderr
    assert "report" in outcomes(done.stdout, "done")  # the report does not depend on it


def test_a_stage_that_every_worker_dies_of_has_failed(running: Cluster, tmp_path: Path, store: S3) -> None:
    stages = {"deadly": {"cmd": f"kill -9 ${RUNNER} && echo > deadly.txt", "outs": ["deadly.txt"]}, "well": FIRST}
    made = project(tmp_path / "project", store, "deadly", stages)
    done = run(made, running)
    assert done.returncode == 1
    assert "all 4 workers that ran it died" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(entries(made.folder)) == {"well"}


def test_what_ran_here_before_goes_to_workers(toy: Project, running: Cluster, gate: Path) -> None:
    gate.touch()
    toy.side_by_side()
    shutil.rmtree(toy.folder / ".dvc/cache/runs")
    stages = toy_stages(gate) | {"more": {"cmd": "wc -l < a.txt > more.txt", "deps": ["a.txt"], "outs": ["more.txt"]}}
    YAML().dump({"stages": stages}, toy.folder / "dvc.yaml")
    done = run(toy, running)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcomes(done.stdout, "done") == ["more"]


def test_stages_wait_for_a_store_that_is_away(toy: Project, running: Cluster, gate: Path, store: S3) -> None:
    with begin(toy, running) as process:
        until(process, "start      slow@")
        shells = wait_for(lambda: waiting(running, gate))
        store.kill()
        gate.touch()
        assert gone(shells)
        time.sleep(2)  # time in which the workers fail to reach the store
        store.start()
        said = rest(process)
    assert process.returncode == 0, said
    assert sorted(outcomes(said, "done")) == ["report", "slow@a", "slow@b", "slow@c"]


def test_a_wrong_secret_is_one_sentence(toy: Project, running: Cluster) -> None:
    done = run(toy, running, AWS_SECRET_ACCESS_KEY="wrong")  # noqa: S106
    assert done.returncode == 1
    assert "does not" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_scheduler_that_dies_ends_in_one_sentence(toy: Project, running: Cluster) -> None:
    address = running.address
    with begin(toy, running) as process:
        until(process, "start      slow@")
        running.kill("scheduler")
        said = rest(process)
    assert process.returncode == 1
    assert f"the scheduler at {address} is gone; the next run continues, finished stages are kept" in said
    assert "Traceback" not in said
    assert "first" in entries(toy.folder)


def test_an_encrypted_cluster_takes_whom_it_knows(tmp_path: Path, store: S3) -> None:
    made = project(tmp_path / "project", store, "tls", {"first": FIRST})
    with cluster(tmp_path / "cluster", made.folder, 1, store, encrypted=True) as running:
        (tmp_path / "other").mkdir()
        for other, sentence in (
            (dict.fromkeys(running.tls, ""), f"{running.address} needs certificates"),
            (dict.fromkeys(running.tls, "none.pem"), "No such file"),
            (certificate(tmp_path / "other"), f"there is no scheduler at {running.address}"),
        ):
            with known_by(other), pytest.raises(UserError, match=sentence):
                executor.connect(running.address, trusted=False)
        done = run(made, running)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "first" in entries(made.folder)
