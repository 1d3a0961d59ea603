"""Nothing of a run lives on when it was asked to leave, or when whom it worked for is gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.processes import gone
from tests.support.project import REPOSITORY

# A stage whose work polls, or computes without looking up, in this process or in two of its own.
STAGE = """
import os, sys, time
from pathlib import Path
from pipeline.common import params, seeds, signals, stage

how, place = sys.argv[1:3]

def polls(*_):
    Path(place, str(os.getpid())).touch()
    while not signals.asked_to_stop():
        time.sleep(0.01)
    Path(place, "kept").touch()

def looks_at_nothing(*_):
    Path(place, str(os.getpid())).touch()
    while True:
        time.sleep(0.01)

function = polls if "polls" in how else looks_at_nothing

def work(checked, provenance):
    os.environ["AELAB_CPUS"] = "2" if "workers" in how else "1"
    seeds.for_each_seed(function, checked.model_copy(update={"seeds": [0, 1]}), "ae", timed=True)

stage._restore_outputs = lambda: None
if "deaf" in how:
    signals.StopListener.listen = lambda *_, **__: None
stage.run(work, None, polls="polls" in how)
"""
DVC = "import subprocess, sys; subprocess.run(sys.argv[1:])"  # stands for DVC: it waits for its stage


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "dvc.py").write_text(DVC)
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "pids").mkdir()
    return tmp_path


def start(place: Path, how: str) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """The process that stands for DVC, and those that do a stage's work."""
    command = [sys.executable, str(place / "dvc.py"), sys.executable, str(place / "stage.py"), how, str(place / "pids")]
    environment = os.environ | {"DVC_STAGE": "train@ae", "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    dvc = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL)
    count = 2 if "workers" in how else 1
    until = time.monotonic() + 60
    while len(list((place / "pids").glob("[0-9]*"))) < count:
        assert time.monotonic() < until
        time.sleep(0.05)
    return dvc, psutil.Process(dvc.pid).children(recursive=True)


WAYS = ["polls", "polls workers", "looks at nothing", "looks at nothing workers"]


@pytest.mark.parametrize(
    ("how", "number"),
    [*((how, signal.SIGTERM) for how in WAYS), ("polls", signal.SIGINT), ("polls workers", signal.SIGINT)],
)
def test_asked_to_leave_it_leaves_within_five_seconds(how: str, number: signal.Signals, place: Path) -> None:
    dvc, stage = start(place, how)
    stage[0].send_signal(number)
    assert gone(stage, 5)
    assert dvc.wait(5) == 0
    assert (place / "pids" / "kept").exists() is ("polls" in how)


@pytest.mark.parametrize("how", WAYS[1:3])
def test_when_dvc_is_killed_its_stage_leaves(how: str, place: Path) -> None:
    dvc, stage = start(place, how)
    dvc.kill()
    dvc.wait()
    assert gone(stage, 5)
    assert (place / "pids" / "kept").exists() is ("polls" in how)


@pytest.mark.parametrize("how", ["polls workers", "looks at nothing workers"])
def test_when_the_stage_is_killed_its_workers_leave(how: str, place: Path) -> None:
    dvc, stage = start(place, how)
    stage[0].kill()
    assert gone(stage, 5)
    dvc.wait()


def test_one_that_does_not_listen_would_live_on(place: Path) -> None:
    dvc, stage = start(place, "looks at nothing deaf")
    dvc.kill()
    dvc.wait()
    assert not gone(stage, 3)
    for each in stage:
        each.kill()
    assert gone(stage, 5)
