"""Ends a stage and its processes in order: when somebody asks for that, or when nobody waits for the stage any more.

A killed DVC or runner leaves its stages running, and a killed stage its processes; a second writer must not live on in
them.
"""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import psutil

from pipeline import RUNNER

GRACE = 3.0  # seconds in which work that polls `asked_to_stop` may leave of its own accord
POLL = 1.0  # seconds


class Interrupted(BaseException):
    """SIGTERM, Ctrl-C, or the end of the process that this one works for."""

    def __init__(self, number: int, *, orphaned: bool = False) -> None:
        super().__init__(number)
        self.number, self.orphaned = number, orphaned


class StopListener:
    """Listens for the two signals, and watches the processes that this one works for."""

    def __init__(self) -> None:
        self.asked: Interrupted | None = None
        self.polls = False
        self.patient_until = 0.0  # on the monotonic clock: the end of the moment
        self.supervisors: list[psutil.Process] = []

    def listen(self, *, polls: bool) -> None:
        """Begin, also in a process that a fork has made; `polls` says whether the work looks at `asked_to_stop`."""
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
        """Leave at once if this process is not wanted any more."""
        if not wanted:
            self.asked = Interrupted(signal.SIGTERM, orphaned=True)
            raise self.asked

    def disarm(self) -> None:
        """Ignore signals from now on: the work is over, or its end has begun."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def _poll(self, *_: object) -> None:
        if self.asked is None:
            if not all(process.is_running() for process in self.supervisors):
                self._ask(Interrupted(signal.SIGTERM, orphaned=True))
            return
        if time.monotonic() < self.patient_until:  # an alarm of before the request, which comes only now
            return
        for child in multiprocessing.active_children():
            child.kill()
        raise self.asked  # work that polls has had its moment

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
    """Whether this process is to leave as soon as it has kept what it has."""
    return LISTENER.asked is not None


def _supervisors() -> list[psutil.Process]:
    """The processes that this one works for: its parent, or all up to the DVC that runs it, and the runner of that.

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
