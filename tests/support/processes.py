"""Processes of tests: functions that start them, wait for them and end them."""

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
PATIENCE = 600.0  # seconds: even on the busiest machine, only a hang takes as long


def wait_for(what: Callable[[], T], patience: float = PATIENCE) -> T:
    """Call `what` until its result is true, and return the result."""
    until = time.monotonic() + patience
    while not (found := what()):
        if time.monotonic() > until:
            msg = f"nothing has come for {patience} seconds"
            raise TimeoutError(msg)
        time.sleep(0.02)
    return found


def gone(processes: Sequence[psutil.Process], within: float = PATIENCE) -> bool:
    """Wait for processes to end, and return whether all did so within the time. A zombie counts as ended."""

    def all_have_ended() -> bool:
        return not [each for each in processes if lives(each)]

    with contextlib.suppress(TimeoutError):
        return wait_for(all_have_ended, within)
    return False


def lives(process: psutil.Process) -> bool:
    """Check whether a process runs, even if the process ends during the check."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def command_of(process: psutil.Process) -> list[str]:
    """Words of a process's command line, or none if the process has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(process.cmdline())
    return []


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Start a process in a new session, with its output as text in a pipe.

    At the end of the block, the process and its descendants are killed.
    """
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
    """All descendants of a process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def working_in(folder: Path) -> list[psutil.Process]:
    """All processes whose current folder is `folder` or a folder below, except this process."""
    place, found = folder.resolve(), list[psutil.Process]()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # the process has ended, or belongs to another user
            if Path(process.cwd()).is_relative_to(place) and process.pid != os.getpid():
                found.append(process)
    return found


def end(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL processes, and wait until they have ended."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert gone(processes)
