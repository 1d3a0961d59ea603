"""What every stage does around its own work: check the parameters first, say where its results come from, and turn
what a user can mend into one sentence with nothing lost.
"""

import csv
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import psutil
from safetensors import SafetensorError

from autoencoders.errors import UserError
from pipeline import PARENT, RUNNER, params, resources

Provenance: TypeAlias = dict[str, Any]
T = TypeVar("T")

BEHIND = 10  # how much nicer to others a process is that nobody times
CODE = ("dvc.yaml", "params.yaml", "pipeline", "src", "requirements.lock")
PACKAGES = ("torch", "numpy", "mlflow", "dvc")
NO_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
GRACE = 3.0  # seconds in which work that polls `asked_to_stop` is to leave of itself


class Interrupted(BaseException):
    """SIGTERM, Ctrl-C, or the end of the process that this one works for."""

    def __init__(self, number: int, *, orphaned: bool = False) -> None:
        super().__init__(number)
        self.number, self.orphaned = number, orphaned


def run(
    work: Callable[[params.Params, Provenance], None],
    provenance_file: Path | None,
    *,
    variants: bool = True,
    polls: bool = False,
) -> None:
    """Do a stage's `work` on the checked parameters and write down where and how it was done.

    `work` may add to the provenance. It goes to a file of its own, since it differs between equal runs. Without
    `variants`, the entries are left as they are: checking them means importing torch. Work that `polls` is given a
    moment to leave in order when it is to stop.
    """
    try:
        LISTENER.listen(polls=polls)
        LISTENER.check(wanted=os.getppid() == PARENT)
        checked = params.load(variants=variants)  # imports the variants, and with them torch
        provenance = _provenance() | {"import_seconds": round(time.process_time(), 2)}
        started = time.perf_counter()
        work(checked, provenance)
        provenance["seconds"] = round(time.perf_counter() - started, 2)
        if provenance_file is not None:
            write_json(provenance_file, provenance)
        LISTENER.rest()
    except BaseException as error:
        asked = LISTENER.asked
        LISTENER.rest()
        if asked is None or not asked.orphaned:  # else another run may be at work there
            _restore_outputs()
        if asked is not None:
            print("\ninterrupted: the next run goes on from here\n", file=sys.stderr, flush=True)
            sys.exit(128 + asked.number)
        sentence = what_to_mend(error)
        if sentence is None:
            raise
        print(f"\n{sentence}\n", file=sys.stderr, flush=True)
        sys.exit(1)


class Listener:
    """Ends this process and its children in order, when it is asked to or when nobody waits for it any more.

    A killed DVC leaves its stage running, and a killed stage its processes; a second writer must not live on in them.
    """

    def __init__(self) -> None:
        self.asked: Interrupted | None = None
        self.polls = False
        self.over: list[psutil.Process] = []  # whom this process works for

    def listen(self, *, polls: bool) -> None:
        """Begin; `polls` says whether the work looks at `asked_to_stop`."""
        self.polls = polls
        try:
            self.over = _over()
        except psutil.NoSuchProcess:
            self.check(wanted=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: self._ask(Interrupted(number)))
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._look)
            signal.setitimer(signal.ITIMER_REAL, 1, 1)

    def check(self, *, wanted: bool) -> None:
        """Leave at once if this process is not wanted any more."""
        if not wanted:
            self.asked = Interrupted(signal.SIGTERM, orphaned=True)
            raise self.asked

    def rest(self) -> None:
        """Let what is left to do be done."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def _look(self, *_: object) -> None:
        if self.asked is None:
            if not all(process.is_running() for process in self.over):
                self._ask(Interrupted(signal.SIGTERM, orphaned=True))
            return
        for child in multiprocessing.active_children():
            child.kill()
        raise self.asked  # what polls had its moment

    def _ask(self, asked: Interrupted) -> None:
        if self.asked is not None:
            return
        self.asked = asked
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        if not self.polls:
            raise asked
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, GRACE + bool(children))


def _over() -> list[psutil.Process]:
    """The processes that this one works for: its parent, or all up to the DVC that runs it, and the runner of that.

    Raises:
        psutil.NoSuchProcess: the runner is gone.
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


LISTENER = Listener()


def asked_to_stop() -> bool:
    """Whether this process is to leave as soon as it has kept what it has."""
    return LISTENER.asked is not None


def for_each_seed(
    work: Callable[[params.Params, str, int], T], checked: params.Params, entry: str, *, timed: bool
) -> dict[int, T]:
    """`work(parameters, entry, seed)` for every seed, several at once, each in a process of its own: small models leave
    a GPU idle, and a training on a CPU uses few of its cores.

    Work that nobody times may run on all cores, behind what is timed: so none is idle while the last stages end.
    """
    import torch  # noqa: PLC0415 - `work` has imported it; the stages that need none of it come here, too

    on_gpu = checked.training.device != "cpu" and torch.cuda.is_available()
    cpus = resources.cpus() if timed else resources.all_cpus()
    at_once = (resources.per_gpu() if on_gpu else None) or cpus // checked.training.threads
    workers = min(len(checked.seeds), at_once)
    if not timed:
        os.nice(BEHIND)
    if workers <= 1:
        return {seed: work(checked, entry, seed) for seed in checked.seeds}
    # A fork saves importing torch again. It is safe while no thread of torch's has run: the parameters are checked on
    # the meta device for that reason. A GPU cannot be shared with a fork, and Apple's libraries have their own threads.
    context = get_context("fork" if sys.platform == "linux" and not on_gpu else "spawn")
    with ProcessPoolExecutor(workers, context, _begin, (LISTENER.polls,)) as pool:
        content = checked.model_dump()
        done = {seed: pool.submit(_in_worker, work, content, entry, seed) for seed in checked.seeds}
        try:
            return _results(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _results(done: Mapping[int, Future[T]]) -> dict[int, T]:
    """What came of every seed; if one failed, once all the others are done."""
    wait(done.values())
    return {seed: future.result() for seed, future in done.items()}


def _begin(polls: bool) -> None:  # noqa: FBT001 - ProcessPoolExecutor passes by position
    LISTENER.__init__()  # type: ignore[misc]
    LISTENER.listen(polls=polls)


def _in_worker(work: Callable[[params.Params, str, int], T], content: dict[str, Any], entry: str, seed: int) -> T:
    return work(params.check(content), entry, seed)


def read_lines(path: Path) -> list[Any]:
    """The objects of a file of JSON lines; a last line that is being written is left for later."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON; NaN and infinity are errors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_json(content))


def as_json(content: object) -> bytes:
    """`content` as the text of a JSON file; NaN and infinity are errors."""
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows that need not all have the same columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list({name: None for row in rows for name in row}), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


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


def what_to_mend(error: BaseException) -> str | None:
    """A problem that the user can mend as a sentence; None if `error` is something else."""
    if isinstance(error, UserError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's
        return (
            "the GPU has too little memory: lower training.batch_size or evaluation.batch_size, free some, or let "
            f"trainings take turns on it with {resources.PER_GPU}=1"
        )
    if isinstance(error, BrokenProcessPool):
        return f"a process was killed, most likely for want of memory: try fewer at once, with {resources.CPUS}=1"
    if isinstance(error, OSError) and error.errno in NO_WRITING:
        where = error.filename or "the results"
        return f"cannot write {where}: {error.strerror}; free space or permit writing there, then run again"
    if isinstance(error, SafetensorError) and "I/O error" in str(error):
        return f"cannot write the results: {error}; free space or permit writing there, then run again"
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
