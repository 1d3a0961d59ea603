"""Ends a stage in an orderly way: after SIGINT or SIGTERM, or after the process that started the stage has died.

If DVC or `pipeline.runner.repro` is killed, the stages keep running. If a stage is killed, the processes that train its
seeds keep running. Each of these processes must notice the death of its parent and end. Otherwise, the next run and the
remaining processes would write to the same files.
"""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import psutil

from pipeline import RUNNER

GRACE = 3.0  # seconds after a signal in which a process that calls `asked_to_stop` can save its state and end
POLL = 1.0  # seconds between two checks whether a process that waits for this process has died


class Interrupted(BaseException):
    """Raised after Ctrl-C or SIGTERM, and after the death of a process that waits for this process.

    Attributes:
        number: The signal. After the death of a waiting process, the number is SIGTERM.
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
        self.polls = False  # whether the stage's work calls `asked_to_stop` regularly
        self.patient_until = 0.0  # end of the grace period on the monotonic clock
        self.supervisors: list[psutil.Process] = []

    def listen(self, *, polls: bool) -> None:
        """Install the signal handlers and the timer. A forked process must call this method itself.

        Args:
            polls: whether the stage's work calls `asked_to_stop` regularly. If so, the work has `GRACE` seconds after a
                signal to return. Otherwise, a signal raises `Interrupted` at once.
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
        """Raise `Interrupted` unless this process is `wanted`: unless another process still waits for this process."""
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
        """Ask the work to stop if a supervisor has died. Raise `Interrupted` if the grace period has ended."""
        if self.asked is None:
            if not all(process.is_running() for process in self.supervisors):
                self._ask(Interrupted(signal.SIGTERM, orphaned=True))
            return
        if time.monotonic() < self.patient_until:  # the work still has time to return
            return
        for child in multiprocessing.active_children():
            child.kill()
        raise self.asked  # the work did not end within the grace period

    def _ask(self, asked: Interrupted) -> None:
        """Ask the child processes to stop. Stop this process at once, or after the grace period if the work polls."""
        if self.asked is not None:
            return
        children = multiprocessing.active_children()
        moment = GRACE + bool(children) if self.polls else 0.0  # a parent waits one second longer than its children
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

    If DVC runs this stage, the list has all ancestors of this process up to DVC. Otherwise, the list has only the
    parent. If the environment variable `RUNNER` names a process, the list also has the named process.

    Raises:
        psutil.NoSuchProcess: the process that `RUNNER` names has died.
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
