"""The process of a cluster's worker. One process runs all stages, so Python's imports happen once.

The process pulls a stage's inputs from DVC's remote into the worker's clone, and pushes the outputs.
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
    """Read requests from standard input, one `StageRequest` in JSON per line, and run each request's stage.

    After the stage's output, print a line with the stage's entry in dvc.lock, or with null if the stage failed.
    """
    with Repo(_wait_for_lock=True) as repo:
        for line in sys.stdin:
            try:
                entry = _run(repo, json.loads(line))
            except Exception as error:  # noqa: BLE001 - the caller gets every error
                print(f"{type(error).__name__}: {error}" + (f": {error.__cause__}" if error.__cause__ else ""))
                entry = None
            print(f"{RESULT}{json.dumps(entry)}", flush=True)


def _run(repo: Repo, request: StageRequest) -> dict[str, Any]:
    """Pull the inputs, run the stage, push the outputs, and return the entry in dvc.lock."""
    name, inputs = request["stage"], request["inputs"]
    dump_yaml("dvc.lock", {"schema": "2.0", "stages": request["lock"]})
    shutil.rmtree(repo.stage_cache.cache_dir, ignore_errors=True)  # entries of earlier stages are in the remote already
    if inputs:
        patiently(lambda: repo.pull(inputs, force=True))
    # The curves go only to an MLflow server, because a database in the worker's clone would disappear with the clone.
    with following([name] if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http") else []):
        repo.reproduce(name, single_item=True, force=True)  # the caller has checked that no cache has the result
    patiently(lambda: repo.push(name))
    patiently(lambda: repo.stage_cache.push(None))  # last, so that the run cache names no missing file
    entry: dict[str, Any] = parse_yaml(Path("dvc.lock").read_text(encoding="utf-8"), "dvc.lock")["stages"][name]
    return entry


def patiently(ask: Callable[[], T]) -> T:
    """Return the result of `ask`, which uses the remote; try again if the remote does not answer.

    Raises:
        UserError: the remote does not answer, or refuses.
    """
    for wait in (*WAITS, None):
        try:
            return ask()
        except Exception as error:
            if wait is None or isinstance(error, PermissionError | FileNotFoundError):
                msg = f"the remote refuses or does not answer: {error}"
                raise UserError(msg) from error
            print(f"the remote does not answer, trying again: {error}", flush=True)
            time.sleep(wait)
    raise AssertionError


if __name__ == "__main__":
    main()
