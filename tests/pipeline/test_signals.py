"""All processes of a run end after a request to stop, or once their parent is gone.

`python -m faults --only stops` measures how long that takes.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeAlias

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.common import signals
from tests.support import forks, leaving
from tests.support.parameters import DEFAULT
from tests.support.processes import PATIENCE, command_of, end, gone, lives, started, wait_for, working_in

Started: TypeAlias = tuple[BaseProcess, list[psutil.Process]]
Start: TypeAlias = Callable[[str], Started]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts a stand-in for DVC and a working stage, and returns the processes of both."""
    monkeypatch.chdir(tmp_path)
    YAML().dump(DEFAULT | {"variants": {"ae": DEFAULT["variants"]["ae"]}, "seeds": [0, 1]}, tmp_path / "params.yaml")
    (tmp_path / "pids").mkdir()

    def start(how: str) -> Started:
        dvc = forks.context().Process(target=leaving.wait_for_stage, args=(how, tmp_path))
        dvc.start()
        wait_for(lambda: len(leaving.turns()) == (2 if "workers" in how else 1))
        return dvc, psutil.Process(dvc.pid).children(recursive=True)

    yield start
    end(working_in(tmp_path))


WAYS = ["polls", "polls workers", "looks at nothing", "looks at nothing workers"]


@pytest.mark.parametrize(
    ("how", "number"),
    [
        *((how, signal.SIGTERM) for how in [*WAYS, "polls, looks at nothing, brief"]),
        ("polls", signal.SIGINT),
        ("polls workers", signal.SIGINT),
    ],
)
def test_asked_to_leave_it_keeps_what_it_can_and_leaves(how: str, number: signal.Signals, start: Start) -> None:
    dvc, stage = start(how)
    stage[0].send_signal(number)
    assert gone(stage)
    dvc.join()
    assert Path("kept").exists() is (how in WAYS[:2])


@pytest.mark.parametrize("how", WAYS[1:3])
def test_when_dvc_is_killed_its_stage_leaves(how: str, start: Start) -> None:
    dvc, stage = start(how)
    dvc.kill()
    assert gone(stage)
    assert Path("kept").exists() is ("polls" in how)


@pytest.mark.parametrize("how", ["polls workers, brief", "looks at nothing workers"])
def test_when_the_stage_is_killed_its_workers_leave(how: str, start: Start) -> None:
    _, stage = start(how)
    stage[0].kill()
    assert gone(stage)


def test_one_that_does_not_listen_would_live_on(start: Start) -> None:
    dvc, stage = start("looks at nothing deaf")
    dvc.kill()
    dvc.join()
    (before,) = leaving.turns().values()
    wait_for(lambda: leaving.turns()[stage[0].pid] > before + 100)  # a listening process reacts after five


def test_what_a_failed_test_has_started_is_gone() -> None:
    """The process is also waited for; otherwise Python would warn later, in an unrelated test."""
    with pytest.raises(ZeroDivisionError), started([sys.executable, "-c", "import time; time.sleep(1e6)"]) as process:
        _ = 1 / 0
    assert process.returncode == -signal.SIGKILL


def test_a_process_may_end_while_it_is_looked_at() -> None:
    with started([sys.executable, "-c", "import time; time.sleep(1e6)"]) as process:
        seen = psutil.Process(process.pid)
        assert wait_for(lambda: command_of(seen))[0] == sys.executable  # a new process has no command at first
        assert lives(seen)
    assert command_of(seen) == []
    assert not lives(seen)


def test_an_alarm_of_before_the_request_ends_no_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm fires every second until a request comes, so an alarm may be pending at that moment."""
    monkeypatch.setattr("signal.setitimer", lambda *_: None)
    monkeypatch.setattr("multiprocessing.active_children", list)
    monkeypatch.setattr(signals, "GRACE", PATIENCE)
    listener = signals.StopListener()
    listener.polls = True
    listener._ask(signals.Interrupted(signal.SIGTERM))
    listener._poll()
    listener.patient_until = 0.0
    with pytest.raises(signals.Interrupted):
        listener._poll()
