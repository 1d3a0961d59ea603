"""Ends a stage and its processes in an orderly way, after a signal or once the process that started the stage is gone.

A killed DVC or runner leaves its stages running, and a killed stage leaves its processes running. All of them must end:
otherwise a second run would write to the same files at the same time.
"""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import psutil

from pipeline import RUNNER

GRACE = 3.0  # seconds in which work that polls `asked_to_stop` may end by itself
POLL = 1.0  # seconds


class Interrupted(BaseException):
    """Raised for SIGTERM, for Ctrl-C, and when the process that waits for this one is gone."""

    def __init__(self, number: int, *, orphaned: bool = False) -> None:
        super().__init__(number)
        self.number, self.orphaned = number, orphaned


class StopListener:
    """Listens for SIGINT and SIGTERM, and watches the processes that wait for this one."""

    def __init__(self) -> None:
        self.asked: Interrupted | None = None
        self.polls = False
        self.patient_until = 0.0  # on the monotonic clock: when the grace period ends
        self.supervisors: list[psutil.Process] = []

    def listen(self, *, polls: bool) -> None:
        """Start listening, also in a forked process; `polls` says whether the work calls `asked_to_stop`."""
        self.asked, self.polls = None, polls
        try:
            self.supervisors = _supervisors()
        except psutil.NoSuchProcess:
            self.check(wanted=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: self._ask(Interrupted(number)))
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._poll)
            signal.setitimer(signal.ITIMER_REAL, POLL, POLL)

    def check(self, *, wanted: bool) -> None:
        """Raise `Interrupted` at once if no process waits for this one."""
        if not wanted:
            self.asked = Interrupted(signal.SIGTERM, orphaned=True)
            raise self.asked

    def disarm(self) -> None:
        """Ignore signals from now on: the work is over, or is already being ended."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def _poll(self, *_: object) -> None:
        if self.asked is None:
            if not all(process.is_running() for process in self.supervisors):
                self._ask(Interrupted(signal.SIGTERM, orphaned=True))
            return
        if time.monotonic() < self.patient_until:  # a late alarm from before the request
            return
        for child in multiprocessing.active_children():
            child.kill()
        raise self.asked  # the grace period of work that polls is over

    def _ask(self, asked: Interrupted) -> None:
        if self.asked is not None:
            return
        children = multiprocessing.active_children()
        moment = GRACE + bool(children) if self.polls else 0.0
        self.patient_until = time.monotonic() + moment
        self.asked = asked
        for child in children:
            child.terminate()
        if not self.polls:
            raise asked
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, moment, POLL)


LISTENER = StopListener()


def asked_to_stop() -> bool:
    """Whether this process should save its state and end."""
    return LISTENER.asked is not None


def _supervisors() -> list[psutil.Process]:
    """Return the processes that wait for this one: its parent, or all ancestors up to DVC, and DVC's runner.

    Raises:
        psutil.NoSuchProcess: the runner is gone.
    """
    parents = psutil.Process().parents()
    dvc = [i for i, parent in enumerate(parents) if any(Path(word).stem == "dvc" for word in _command(parent)[:4])]
    runner = [psutil.Process(int(os.environ[RUNNER]))] if RUNNER in os.environ else []
    return parents[: dvc[-1] + 1 if dvc and "DVC_STAGE" in os.environ else 1] + runner


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
