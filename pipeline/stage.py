"""What every stage does around its own work: check the parameters first, say where its results come from, and turn
what a user can mend into one sentence with nothing lost.
"""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError

from autoencoders.errors import UserError
from pipeline import params

Provenance: TypeAlias = dict[str, Any]

CODE = ("dvc.yaml", "params.yaml", "pipeline", "src", "requirements.lock")
PACKAGES = ("torch", "numpy", "mlflow", "dvc")
NO_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def run(work: Callable[[params.Params, Provenance], None], provenance_file: Path | None) -> None:
    """Do a stage's `work` on the checked parameters and write down where and how it was done.

    `work` may add to the provenance. It goes to a file of its own, since it differs between equal runs.
    """
    try:
        checked = params.load()
        provenance = _provenance()
        started = time.perf_counter()
        work(checked, provenance)
        provenance["seconds"] = round(time.perf_counter() - started, 2)
        if provenance_file is not None:
            write_json(provenance_file, provenance)
    except BaseException as error:
        _restore_outputs()
        sentence = _what_to_mend(error)
        if sentence is None:
            raise
        print(f"\n{sentence}\n", file=sys.stderr, flush=True)
        sys.exit(1)


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON; NaN and infinity are errors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _provenance() -> Provenance:
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=all", "--", *CODE)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "uncommitted_changes": sorted(line[3:] for line in changed.splitlines()) if commit else ["unknown"],
        "experiment": os.environ.get("DVC_EXP_NAME", ""),
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.rstrip("\n")


def _what_to_mend(error: BaseException) -> str | None:
    """A problem that the user can mend as a sentence; None if `error` is something else."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU has too little memory: lower training.batch_size or evaluation.batch_size, or free some"
    if isinstance(error, OSError) and error.errno in NO_WRITING:
        return f"cannot write {error.filename or 'the results'}: {error.strerror}; make room or permit it and run again"
    if isinstance(error, SafetensorError) and "I/O error" in str(error):
        return f"cannot write the results: {error}; make room or permit it and run again"
    return None


def _restore_outputs() -> None:
    """Bring back the stage's outputs of before: DVC deletes them just before it runs the stage's command.

    They are in DVC's cache under the hashes of `dvc.lock`, which holds the last successful run while a stage runs.
    """
    name = os.environ.get("DVC_STAGE")
    if name is None:
        return
    from dvc.repo import Repo  # noqa: PLC0415 - slow to import, needed only here

    try:
        with Repo() as repo:
            for out in repo.stage.load_one(name=name).outs:
                if out.use_cache and out.hash_info:
                    out.checkout(force=True, allow_missing=True)
    except Exception as error:  # noqa: BLE001 - what went wrong first is what matters
        print(f"the earlier results are still in the cache, `dvc checkout` brings them back ({error})", file=sys.stderr)
