"""Runs the work of every stage: checks the parameters, records the provenance, and reports errors.

The provenance is the time, the commit, the hardware and the versions of packages. After an error or an interruption,
the outputs of the stage's last successful run are restored. An error that the user can correct becomes one sentence
without a traceback.
"""

import errno
import gc
import os
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError

import aelab
import pipeline
from aelab.core.disk import write_json
from aelab.core.errors import UserError
from pipeline import PARENT
from pipeline.common import git, params, resources
from pipeline.common.signals import LISTENER

Provenance: TypeAlias = dict[str, Any]

CODE = ("dvc.yaml", "params.yaml", "pipeline", "src", "requirements.lock")
PACKAGES = ("torch", "numpy", "mlflow", "dvc")
GPU_PROBLEMS = {  # patterns in torch's messages, and the sentence for the user
    r"OutOfMemoryError|(CUDA error: |MPS backend )out of memory|_ALLOC_FAILED": (
        "the GPU has too little memory: lower training.batch_size or evaluation.batch_size, free GPU memory, "
        f"or run one training at a time with {resources.PER_GPU}=1"
    ),
    "CUDA error: no kernel image": "this torch has no kernels for the GPU: set training.device to cpu",
    "CUDA error: .*busy or unavailable": (
        "another process has the GPU to itself: end that process, let the seeds take turns with "
        f"{resources.PER_GPU}=1, or set training.device to cpu"
    ),
}
NO_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def run(
    work: Callable[[params.Params, Provenance], None],
    provenance_file: Path | None,
    *,
    variants: bool = True,
    polls: bool = False,
) -> None:
    """Check the parameters, do the `work` of a stage, and write the provenance.

    Args:
        work: function of the checked parameters and the provenance. The function may add keys to the provenance.
        provenance_file: file for the provenance, or None to write no file. The provenance is not in the result files,
            because the provenance differs between runs with equal results.
        variants: whether to check the section `variants`, which needs the slow import of torch.
        polls: whether `work` calls `asked_to_stop` regularly. If so, `work` has a few seconds after a signal to return.
    """
    try:
        LISTENER.listen(polls=polls)
        LISTENER.check(wanted=os.getppid() == PARENT)
        check_code()
        checked = params.load(variants=variants)  # with `variants`, this line imports torch
        gc.freeze()  # garbage collections now skip the imported modules, which saves half a second at exit
        provenance = _provenance() | {"import_seconds": round(time.process_time(), 2)}
        started = time.perf_counter()
        work(checked, provenance)
        provenance["seconds"] = round(time.perf_counter() - started, 2)
        if provenance_file is not None:
            write_json(provenance_file, provenance)
        LISTENER.disarm()
    except BaseException as error:
        asked = LISTENER.asked
        LISTENER.disarm()
        if asked is None or not asked.orphaned:  # an orphaned stage must not disturb a new run
            _restore_outputs()
        if asked is not None:
            print("\ninterrupted: the next run continues from here\n", file=sys.stderr, flush=True)
            sys.exit(128 + asked.number)
        sentence = what_to_mend(error)
        if sentence is None:
            raise
        print(f"\n{sentence}\n", file=sys.stderr, flush=True)
        sys.exit(1)


def check_code() -> None:
    """Check that Python runs the code in this folder, which is the code that DVC hashes.

    Raises:
        UserError: the packages are imported from another folder.
    """
    for hashed, package in ((Path("pipeline"), pipeline), (Path("src/aelab"), aelab)):
        runs = Path(str(package.__file__)).parent
        if hashed.is_dir() and not hashed.samefile(runs):
            msg = (
                f"DVC hashes the code in {hashed.resolve()}, but Python runs the code in {runs}: unset PYTHONPATH and "
                "PYTHONSAFEPATH, then run again"
            )
            raise UserError(msg)


def _provenance() -> Provenance:
    commit = (git.output("rev-parse", "HEAD") or "").strip()
    changed = (git.output("status", "--porcelain", "--untracked-files=all", "--", *CODE) or "").rstrip("\n")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "uncommitted_changes": sorted(line[3:] for line in changed.splitlines()) if commit else ["unknown"],
        "experiment": os.environ.get("DVC_EXP_NAME", ""),
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": {name: version(name) for name in PACKAGES},
    }


def what_to_mend(error: BaseException) -> str | None:
    """Return the sentence for a problem that the user can correct; None for any other error."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, RuntimeError):
        said = f"{type(error).__name__}: {error}"  # a pattern matches a class's name, since importing torch is slow
        if found := [sentence for words, sentence in GPU_PROBLEMS.items() if re.search(words, said)]:
            return found[0]
    if isinstance(error, BrokenProcessPool):
        return f"a process was killed, probably because memory ran out: run fewer at once with {resources.CPUS}=1"
    if isinstance(error, OSError) and error.errno in NO_WRITING:
        where = error.filename or "the results"
        return f"cannot write {where}: {error.strerror}; free space or permit writing there, then run again"
    if isinstance(error, SafetensorError) and "I/O error" in str(error):
        return f"cannot write the results: {error}; free space or permit writing there, then run again"
    return None


def _restore_outputs() -> None:
    """Restore the outputs of the stage's last successful run, which DVC deleted just before the stage's command.

    DVC's cache still has these outputs under the hashes in `dvc.lock`. DVC changes `dvc.lock` only after a successful
    run.
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
    except Exception as error:  # noqa: BLE001 - the user must see the error of the stage, not this error
        print(f"the earlier results are in the cache; restore them with `dvc checkout` ({error})", file=sys.stderr)
