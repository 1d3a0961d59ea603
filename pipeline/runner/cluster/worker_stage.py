"""The process that runs stages of `dvc.yaml` on a worker of a Dask cluster, in the worker's clone of the repository.

A worker has one such process, which runs one stage after the other, so Python imports DVC only once. For each stage,
the process pulls the inputs from DVC's remote storage, runs the stage's command, and pushes the outputs to the remote.
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

WAITS = (1, 2, 4, 8, 16)  # seconds to wait after each failed attempt to use the remote


def main() -> None:
    """Run the stages that the worker requests through standard input. Each line is a `StageRequest` as JSON.

    After a stage's output, print one line with the stage's entry in dvc.lock, or with null if the stage failed. The
    entry has the hashes of the stage's inputs and outputs.
    """
    with Repo(_wait_for_lock=True) as repo:
        for line in sys.stdin:
            try:
                entry = _run(repo, json.loads(line))
            except Exception as error:  # noqa: BLE001 - the worker sends every error to the caller
                print(f"{type(error).__name__}: {error}" + (f": {error.__cause__}" if error.__cause__ else ""))
                entry = None
            print(f"{RESULT}{json.dumps(entry)}", flush=True)


def _run(repo: Repo, request: StageRequest) -> dict[str, Any]:
    """Pull a stage's inputs, run the stage, push its outputs, and return its entry in dvc.lock."""
    name, inputs = request["stage"], request["inputs"]
    dump_yaml("dvc.lock", {"schema": "2.0", "stages": request["lock"]})
    shutil.rmtree(repo.stage_cache.cache_dir, ignore_errors=True)  # so that the last push sends only this stage's entry
    if inputs:
        patiently(lambda: repo.pull(inputs, force=True))
    # Learning curves go only to an MLflow server, since a database in the worker's clone would be lost with the clone.
    with following([name] if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http") else []):
        repo.reproduce(name, single_item=True, force=True)  # forced, since the caller found no cached result
    patiently(lambda: repo.push(name))
    # Push DVC's run cache last. Its entries refer to the outputs, so the remote must have the outputs first.
    patiently(lambda: repo.stage_cache.push(None))
    entry: dict[str, Any] = parse_yaml(Path("dvc.lock").read_text(encoding="utf-8"), "dvc.lock")["stages"][name]
    return entry


def patiently(ask: Callable[[], T]) -> T:
    """Call `ask`, a function that uses the remote, and return its result. Repeat a call that fails, up to five times.

    Raises:
        UserError: the remote refuses access or lacks a file, or all calls have failed.
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
