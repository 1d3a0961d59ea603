"""Processes that ought to be gone."""

import time

import psutil


def gone(processes: list[psutil.Process], within: float) -> bool:
    """Whether they end in time; a process that nobody has asked about is a zombie then."""
    until = time.monotonic() + within
    while [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
