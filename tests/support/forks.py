"""Processes that start with all modules imported: forks of a server that imports once for all tests of a worker."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from tests.support.project import REPOSITORY

IMPORTED = ["tests.support.sharing", "tests.support.leaving", "aelab.report.mlflow_writer"]


def context() -> ForkServerContext:
    """Context that forks processes from the server."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(IMPORTED)
    with contextlib.chdir(REPOSITORY):  # the server imports from the repository
        forkserver.ensure_running()
    return found


@contextmanager
def started(target: Callable[..., object], arguments: Sequence[tuple[Any, ...]]) -> Iterator[list[BaseProcess]]:
    """Start a process for each tuple of arguments, and kill the processes at the end of the block."""
    running = list[BaseProcess]()
    try:
        for each in arguments:
            begun = context().Process(target=target, args=each)
            begun.start()
            running.append(begun)
        yield running
    finally:
        for process in running:
            process.kill()
            process.join()
