"""Processes of tests: what is waited for, and what ends with the test that started it."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
PATIENCE = 600.0  # seconds: nothing but a hang takes as long, on the busiest machine


def wait_for(what: Callable[[], T], patience: float = PATIENCE) -> T:
    """What `what` gives once it is true."""
    until = time.monotonic() + patience
    while not (found := what()):
        if time.monotonic() > until:
            msg = f"nothing has come for {patience} seconds"
            raise TimeoutError(msg)
        time.sleep(0.02)
    return found


def gone(processes: Sequence[psutil.Process], within: float = PATIENCE) -> bool:
    """Whether they end in time; a process that nobody has asked about is a zombie then."""

    def all_have_ended() -> bool:
        return not [each for each in processes if lives(each)]

    with contextlib.suppress(TimeoutError):
        return wait_for(all_have_ended, within)
    return False


def lives(process: psutil.Process) -> bool:
    """Whether a process has not ended; of one that has, while it is looked at, nothing can be read."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def command_of(process: psutil.Process) -> list[str]:
    """The words of its command; none once it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(process.cmdline())
    return []


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A process in a session of its own, whose output is text in a pipe; it ends with the block, and all below it."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            below = children(process)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            end(below)


def children(process: "subprocess.Popen[Any]") -> list[psutil.Process]:
    """All processes that it has started, and they in turn."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def working_in(folder: Path) -> list[psutil.Process]:
    """All processes that work in a folder or below it, this one aside."""
    place, found = folder.resolve(), list[psutil.Process]()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # over, or not ours
            if Path(process.cwd()).is_relative_to(place) and process.pid != os.getpid():
                found.append(process)
    return found


def end(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL them, and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert gone(processes)
