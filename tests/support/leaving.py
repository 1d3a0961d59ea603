"""A stage, and a parent process in the place of DVC. tests/pipeline/test_signals.py kills one of the two.

After a signal, work that calls `asked_to_stop` has a grace period in which it may end by itself. Here the grace period
is `PATIENCE`, so that even the slowest machine ends in time. In cases with "brief" in their name, the grace period is
too short.
"""

import os
import time
from pathlib import Path
from typing import Any

from pipeline.common import params, resources, seeds, signals, stage
from tests.support.processes import PATIENCE

TURN = 0.01  # seconds


def wait_for_stage(how: str, place: Path) -> None:
    """Start the stage in a child process and wait for it, as DVC does."""
    os.chdir(place)
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    else:
        _run_stage(how)


def turns() -> dict[int, int]:
    """Number of turns of work that each process of the stage has done, by process ID."""
    return {int(path.name): path.stat().st_size for path in Path("pids").iterdir()}


def _run_stage(how: str) -> None:
    os.environ |= {"DVC_STAGE": "train@ae", resources.CPUS: "2" if "workers" in how else "1"}
    stage.PARENT = os.getppid()  # type: ignore[attr-defined]
    stage._restore_outputs = lambda: None
    signals.POLL, signals.GRACE = 5 * TURN, 5 * TURN if "brief" in how else PATIENCE
    if "deaf" in how:
        signals.StopListener.listen = lambda *_, **__: None  # type: ignore[method-assign]
    function = _looks_at_nothing if "nothing" in how else _looks_up

    def work(checked: params.Params, _: Any) -> None:
        seeds.for_each_seed(function, checked, "ae", timed=True)

    stage.run(work, None, polls="polls" in how)


def _turn() -> None:
    with Path("pids", str(os.getpid())).open("ab") as file:
        file.write(b".")
    time.sleep(TURN)


def _looks_up(*_: Any) -> None:
    while not signals.asked_to_stop():
        _turn()
    Path("kept").touch()


def _looks_at_nothing(*_: Any) -> None:
    while True:
        _turn()
