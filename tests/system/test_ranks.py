"""A training that several processes share under torchrun: killed, asked to stop, on two machines.

The tests build on each other.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from aelab.core import disk
from aelab.core.errors import UserError
from pipeline.training import ranks
from tests.support.processes import children, gone, started, wait_for
from tests.support.project import Project
from tests.system.conftest import Copy

STEPS = 400
NETWORK = {"name": "patches", "width": 8, "downsampling": 4}
TRAIN = (sys.executable, "-m", "pipeline.stages.train", "ae")


@pytest.fixture(scope="module")
def project(copy: Copy) -> Project:
    """Prepare a project with training images and the hashes of the code."""
    project = copy("ranks")
    params = project.params()
    params["seeds"] = [0]
    params["training"] |= {"steps": STEPS, "processes": 2, "device": "cpu"}
    params["variants"] = {"ae": {"model": "ae", "inputs": "clean", "network": NETWORK, "code": 4}}
    project.write_params(params)
    done = project.run(sys.executable, "-m", "pipeline.stages.sources")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture(scope="module")
def bits(project: Project) -> bytes:
    """Return the model of an undisturbed training."""
    done = project.run(*TRAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"step {STEPS}/{STEPS}") == 1  # one process prints for all
    return model(project.folder)


def model(folder: Path) -> bytes:
    return (folder / "models/ae/seed0.safetensors").read_bytes()


def begun(
    project: Project, root: Path, machines: str = "", folder: Path | None = None
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start the stage with its checkpoints in `root`, several per second."""
    own = {
        "AELAB_CHECKPOINTS": str(root / "checkpoints"),
        "AELAB_CHECKPOINT": "0.1",
    }
    if machines:
        own |= {ranks.TORCHRUN: machines}
    return started(TRAIN, cwd=folder or project.folder, env=os.environ | own)


def checkpoint(root: Path) -> Callable[[], object]:
    return lambda: newer(root, 0.0)


def newer(root: Path, moment: float) -> bool:
    """Whether there is a checkpoint from after that moment."""
    return any(each.stat().st_mtime > moment for each in root.glob("checkpoints/*/last.safetensors"))


def parts(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes that share the training, by their ranks."""
    return sorted((each for each in children(process) if place(each)), key=lambda each: int(place(each)["RANK"]))


def place(process: psutil.Process) -> dict[str, str]:
    """Return torchrun's settings of a running process; empty if torchrun did not start the process."""
    try:
        told = process.environ()
    except psutil.Error:
        return {}
    return told if "RANK" in told else {}


def test_killed_and_asked_to_stop_the_bits_are_the_same(project: Project, bits: bytes, tmp_path: Path) -> None:
    """Kill one process, which is replaced, then stop all processes; none may survive."""

    def interrupted() -> bool:
        """Whether all interruptions came before the training's end."""
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        with begun(project, tmp_path) as process:
            one_is_replaced(process, tmp_path)
            asked = stopped_with(signal.SIGTERM, process, tmp_path)
        with begun(project, tmp_path) as process:
            killed = stopped_with(signal.SIGKILL, process, tmp_path)
        return (asked, killed) == (143, -9)

    wait_for(interrupted)
    with begun(project, tmp_path) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "continues from step" in output
    assert model(project.folder) == bits
    cost = disk.read_json(project.folder / "provenance/train/ae/training.json")
    assert cost["processes"] == 2
    assert cost["seeds"]["0"]["interruptions"] == 3


def one_is_replaced(process: subprocess.Popen[str], root: Path) -> None:
    """Kill the process that writes; `test_two_machines_have_the_bits_of_one` kills a process of another machine."""
    wait_for(lambda: newer(root, 0.0) or process.poll() is not None)
    before = parts(process)
    if not before:
        return
    met = place(before[0]).get("MASTER_PORT")
    before[0].kill()

    def new() -> list[str]:
        """Return the meeting points of two other processes; empty once the training has ended."""
        if process.poll() is not None:
            return [""]
        after = parts(process)
        return [place(each)["MASTER_PORT"] for each in after] if len({*after} - {*before}) == 2 else []

    # With the old store, they would find messages of the dead processes about every second time.
    assert met not in wait_for(new)


def stopped_with(number: signal.Signals, process: subprocess.Popen[str], root: Path) -> int:
    """Send a signal to a running training and wait for its end; return 0 if the training had finished before."""
    before = time.time()
    wait_for(lambda: newer(root, before) or process.poll() is not None)
    below = children(process)
    process.send_signal(number)
    assert gone(below)
    output, _ = process.communicate()
    assert process.returncode in {128 + number, -number, 0}, output
    assert "Traceback" not in output, output
    return process.returncode


def machines() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"--nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=localhost:{free.getsockname()[1]} --rdzv-id=test"


def copy_of(project: Project, folder: Path) -> Path:
    """Make the project of another machine: a checkout with its own data."""
    folder.mkdir()
    for name in ("data", "sources", "params.yaml", "dvc.yaml", "requirements.lock", "pipeline", "src"):
        (folder / name).symlink_to(project.folder / name)
    return folder


def test_two_machines_have_the_bits_of_one(project: Project, bits: bytes, tmp_path: Path) -> None:
    told, other = machines(), copy_of(project, tmp_path / "other")
    with begun(project, tmp_path, told) as one, begun(project, tmp_path, told, other) as another:
        wait_for(checkpoint(tmp_path))
        (killed,) = parts(another)
        killed.kill()  # its machine restarts it, and the other machine continues
        for process in (one, another):
            output, _ = process.communicate()
            assert process.returncode == 0, output
    assert model(project.folder) == model(other) == bits


def test_the_first_process_alone_writes_and_the_machines_have_to_share_it(project: Project, tmp_path: Path) -> None:
    told, roots, other = machines(), [tmp_path / "a", tmp_path / "b"], copy_of(project, tmp_path / "other")
    with begun(project, roots[0], told) as one, begun(project, roots[1], told, other) as another:
        outputs = [process.communicate()[0] for process in (one, another)]
    wrote = [sorted(path.name for path in root.glob("checkpoints/*/*")) for root in roots]
    assert sorted(wrote) == [[], ["about.json", "curve.jsonl", "finished.json", "lock", "model.safetensors"]]
    assert sorted(process.returncode for process in (one, another)) == [0, 1]
    assert "all machines must share the folder `checkpoints`" in outputs[wrote.index([])]


@pytest.mark.parametrize(
    ("processes", "told", "count"),
    [(4, "", 4), (4, "--nnodes=2 --node-rank=0", 2), (3, "--nnodes=2 --nproc-per-node=2", 2)],
)
def test_the_processes_are_shared_out_over_the_machines(
    processes: int, told: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ranks.TORCHRUN, told)
    assert ranks.processes_here(processes) == count


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ("--nnodes=2", "training.processes is 3: it must be a multiple of the 2 machines in AELAB_TORCHRUN"),
        (
            "--nnodes=1:4",
            "AELAB_TORCHRUN is '--nnodes=1:4': --nnodes and --nproc-per-node must be whole numbers",
        ),
    ],
)
def test_machines_that_do_not_go_with_it_are_one_sentence(
    told: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ranks.TORCHRUN, told)
    with pytest.raises(UserError) as found:
        ranks.processes_here(3)
    assert str(found.value) == sentence
