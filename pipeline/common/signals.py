"""Ends a stage in an orderly way: after SIGINT or SIGTERM, or after the process that started the stage has died.

If DVC or the runner is killed, their stages keep running. If a stage is killed, the processes that train its seeds keep
running. Every process left behind must notice the death and end, because a second run would write to the same files.
"""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import psutil

from pipeline import RUNNER

GRACE = 3.0  # seconds after a signal in which a process that calls `asked_to_stop` can save its state and end
POLL = 1.0  # seconds between two checks that the supervisors are alive


class Interrupted(BaseException):
    """Raised after Ctrl-C or SIGTERM, and after the death of a process that waits for this process.

    Attributes:
        number: The signal; SIGTERM after such a death.
        orphaned: Whether a process that waits for this process has died.
    """

    def __init__(self, number: int, *, orphaned: bool = False) -> None:
        super().__init__(number)
        self.number, self.orphaned = number, orphaned


class StopListener:
    """Handles SIGINT and SIGTERM in this process, and checks every second that its supervisors are alive.

    The supervisors are the processes that wait for this process, such as DVC.
    """

    def __init__(self) -> None:
        self.asked: Interrupted | None = None  # the first request to stop
        self.polls = False  # whether the work calls `asked_to_stop`
        self.patient_until = 0.0  # end of the grace period on the monotonic clock
        self.supervisors: list[psutil.Process] = []

    def listen(self, *, polls: bool) -> None:
        """Install the signal handlers and the timer. A forked process must call this method itself.

        Args:
            polls: whether the work calls `asked_to_stop`. If so, the work has `GRACE` seconds after a signal to
                return. Otherwise, a signal raises `Interrupted` at once.
        """
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
        """Raise `Interrupted` unless this process is `wanted`: another process still waits for this one."""
        if not wanted:
            self.asked = Interrupted(signal.SIGTERM, orphaned=True)
            raise self.asked

    def disarm(self) -> None:
        """Ignore all further signals, because the work has ended or is already being stopped."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def _poll(self, *_: object) -> None:
        """Handle the timer: ask to stop if a supervisor has died; stop by force after the grace period."""
        if self.asked is None:
            if not all(process.is_running() for process in self.supervisors):
                self._ask(Interrupted(signal.SIGTERM, orphaned=True))
            return
        if time.monotonic() < self.patient_until:  # a regular tick, before the grace period ends
            return
        for child in multiprocessing.active_children():
            child.kill()
        raise self.asked  # the work did not end within the grace period

    def _ask(self, asked: Interrupted) -> None:
        """Stop the child processes, and this process: at once, or after the grace period."""
        if self.asked is not None:
            return
        children = multiprocessing.active_children()
        moment = GRACE + bool(children) if self.polls else 0.0  # with children, one second more than the children get
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
    """Whether this process should save its state and end, because of a signal or the death of a supervisor."""
    return LISTENER.asked is not None


def _supervisors() -> list[psutil.Process]:
    """Return the processes that wait for this process.

    In a stage that DVC runs, these are all ancestors up to DVC; otherwise, the parent. If the runner started the stage,
    the list includes the runner.

    Raises:
        psutil.NoSuchProcess: the runner has died.
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
