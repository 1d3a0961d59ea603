"""The process of a worker that runs stages, one after the other: Python's imports take longer than DVC's own work.

What a stage reads comes from DVC's remote into the worker's clone, and what it has written goes there.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dvc.repo import Repo
from dvc.utils.serialize import dump_yaml, parse_yaml

from aelab.core.errors import UserError
from pipeline.runner.cluster.worker import RESULT, StageRequest
from pipeline.runner.local import following

T = TypeVar("T")

WAITS = (1, 2, 4, 8, 16)  # seconds between attempts to reach the remote


def main() -> None:
    """Run the stage of each line of standard input, a `StageRequest`; after its output comes a line with its entry in
    dvc.lock, or with null if it failed.
    """
    with Repo(_wait_for_lock=True) as repo:
        for line in sys.stdin:
            try:
                entry = _run(repo, json.loads(line))
            except Exception as error:  # noqa: BLE001 - the caller gets it, whatever it is
                print(f"{type(error).__name__}: {error}" + (f": {error.__cause__}" if error.__cause__ else ""))
                entry = None
            print(f"{RESULT}{json.dumps(entry)}", flush=True)


def _run(repo: Repo, request: StageRequest) -> dict[str, Any]:
    """Fetch, run, hand over; the entry in dvc.lock."""
    name, inputs = request["stage"], request["inputs"]
    dump_yaml("dvc.lock", {"schema": "2.0", "stages": request["lock"]})
    shutil.rmtree(repo.stage_cache.cache_dir, ignore_errors=True)  # what it has run before is there already
    if inputs:
        patiently(lambda: repo.pull(inputs, force=True))
    # To a server only: the worker's own files go with its clone.
    with following([name] if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http") else []):
        repo.reproduce(name, single_item=True, force=True)  # the caller knows that no cache has it
    patiently(lambda: repo.push(name))
    patiently(lambda: repo.stage_cache.push(None))  # in this order: a run must not name what is not there
    entry: dict[str, Any] = parse_yaml(Path("dvc.lock").read_text(encoding="utf-8"), "dvc.lock")["stages"][name]
    return entry


def patiently(ask: Callable[[], T]) -> T:
    """What the remote answers; one that is away for a moment is asked again.

    Raises:
        UserError: it does not answer, or says no.
    """
    for wait in (*WAITS, None):
        try:
            return ask()
        except Exception as error:
            if wait is None or isinstance(error, PermissionError | FileNotFoundError):
                msg = f"the remote does not give or take what it should: {error}"
                raise UserError(msg) from error
            print(f"the remote does not answer, it is tried again: {error}", flush=True)
            time.sleep(wait)
    raise AssertionError


if __name__ == "__main__":
    main()
