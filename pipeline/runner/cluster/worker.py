"""Runs a stage of `dvc.yaml` on a worker of a Dask cluster, in the worker's own clone of the repository.

A worker is a Dask process on any machine. The machine needs git, the Python environment of this repository, and access
to DVC's remote storage, from which the worker also fetches the code. The caller is the process that sends stages to the
workers. Dask sends the functions of this file with each stage, so these functions must not call functions from other
modules of `pipeline`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from pipeline import RUNNER

CODE = "refs/aelab/code"  # git reference of the commit with the code, in the bundle and in the clone
PATIENCE = 10.0  # seconds between SIGINT and SIGKILL, when a stage must end early
# This prefix begins the line after a stage's output. The rest of the line is the stage's entry in dvc.lock, as JSON.
# The entry has the hashes of the stage's inputs and outputs.
RESULT = "\x1eresult "


class Checkout(TypedDict):
    """The code that a worker must check out, and the settings with which the worker runs the code."""

    bundle: str  # file name of a git bundle in the folder `code` of DVC's remote
    head: str  # hash of the caller's commit, which results name as their origin
    remote: dict[str, Any]  # settings of the remote in DVC's configuration
    environment: dict[str, str]  # environment variables that name the MLflow server


class StageRequest(TypedDict):
    """The message that tells a worker which stage to run. The message contains no passwords or keys."""

    stage: str
    inputs: list[str]  # paths that other stages wrote and this stage reads
    lock: dict[str, dict[str, Any]]  # by stage name: entries in dvc.lock of the stages that wrote the inputs
    checkout: Checkout


def work(request: StageRequest, topic: str) -> tuple[dict[str, Any] | None, str]:
    """Run a stage in this worker's clone. Dask calls this function on the worker.

    The stage runs in another process. Meanwhile, the worker can answer Dask's scheduler, which declares silent workers
    dead.

    Args:
        request: the stage, its inputs and the code.
        topic: name of the Dask events that show the caller each line of output at once.

    Returns:
        Two values: the stage's entry in dvc.lock, or None if the stage failed; and the text that the stage printed.
    """
    from distributed import get_worker  # noqa: PLC0415

    worker = get_worker()
    key = worker.get_current_task()
    log: list[str] = []

    def tell(**what: str) -> None:
        worker.log_event(topic, {"stage": request["stage"], "by": str(worker.name)} | what)

    def show(line: str) -> None:
        log.append(line)
        tell(line=line)

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing"

    tell()
    entry = None
    try:
        # Keep the clone in Dask's worker object, because Dask loads this module again for every stage.
        clone = worker.extensions.get("aelab") or Clone(Path(worker.local_directory) / "clone")
        worker.extensions["aelab"] = clone
        clone.update(request["checkout"])
        entry = clone.run(request, show, wanted)
    except Exception as error:  # noqa: BLE001 - the caller prints every error
        show(f"on {worker.name}: {type(error).__name__}: {error}\n")
    return entry, "".join(log)


class Clone:
    """A worker's own clone of the repository. Workers share no clone, since DVC's locks work only on one machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout: Checkout | None = None
        self.process: subprocess.Popen[str] | None = None  # runs `worker_stage`, for one stage after the other
        folder.mkdir(parents=True, exist_ok=True)
        git("init", "--quiet", folder=folder)

    def update(self, checkout: Checkout) -> None:
        """Check out the caller's commit, and apply the caller's uncommitted changes."""
        if self.checkout == checkout:
            return
        if self.process:
            self.process.kill()  # this process runs the old code, or uses the old remote
            self.process = None
        self.checkout, remote = None, checkout["remote"]
        bundle = self.folder / ".git/code.bundle"
        files, path = storage(remote)
        files.get_file(files.join(path, "code", checkout["bundle"]), str(bundle))
        for command in (
            ("fetch", "--quiet", "--force", str(bundle), f"{CODE}:{CODE}"),
            ("checkout", "--quiet", "--force", "--detach", checkout["head"]),
            ("clean", "--quiet", "--force", "-d"),
            ("checkout", "--quiet", "--force", "--no-overlay", CODE, "--", "."),
            ("reset", "--quiet"),  # unstage the caller's changes, which the line above has staged
        ):
            git(*command, folder=self.folder)
        lines = [f"    {key} = {value}" for key, value in remote.items()]
        config = ["[core]", "    remote = cluster", "    autostage = false", "['remote \"cluster\"']", *lines, ""]
        (self.folder / ".dvc/config.local").write_text("\n".join(config), encoding="utf-8")
        self.checkout = checkout

    def run(
        self, request: StageRequest, show: Callable[[str], object], wanted: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """Run a stage, and return its entry in dvc.lock; None if the stage failed.

        Args:
            request: the stage and its inputs.
            show: function that receives each line of the stage's output.
            wanted: function that returns whether the caller still waits for the result. If not, the stage is ended.
        """
        if self.process is None or self.process.poll() is not None:
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
            own = {"PATH": path, RUNNER: str(os.getpid())} | request["checkout"]["environment"]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.runner.cluster.worker_stage"],
                cwd=self.folder, env=os.environ | own, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                start_new_session=True,
            )  # fmt: skip
        process, over = self.process, threading.Event()
        threading.Thread(target=_watch, args=[process, wanted, over], daemon=True).start()
        try:
            print(json.dumps(request), file=process.stdin, flush=True)
            for line in process.stdout or ():
                if line.startswith(RESULT):
                    entry: dict[str, Any] | None = json.loads(line.removeprefix(RESULT))
                    return entry
                show(line)
        finally:
            over.set()
        show(f"the process of the stage ended with code {process.wait()}\n")
        return None


def git(*arguments: str, folder: Path | None = None, **environment: str) -> str:
    """Run a git command in `folder`, with the variables of `environment`, and return the output.

    Raises:
        RuntimeError: git fails.
    """
    done = subprocess.run(  # noqa: S603
        ["git", *arguments], cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        msg = f"git {arguments[0]}: {done.stderr.strip()}"
        raise RuntimeError(msg)
    return done.stdout.strip()


def storage(remote: dict[str, Any]) -> tuple[Any, str]:
    """Return the file system that holds a DVC remote, and the path of the remote's folder in this file system.

    Args:
        remote: the settings of the remote in DVC's configuration.
    """
    from dvc.fs import get_cloud_fs  # noqa: PLC0415

    kind, config, path = get_cloud_fs({"core": {}, "remote": {"cluster": remote}}, name="cluster")
    return kind(**config), path


def _watch(process: subprocess.Popen[str], wanted: Callable[[], bool], over: threading.Event) -> None:
    """Watch a stage until it is `over`. If the caller no longer waits for the result, end the stage's `process`."""
    while wanted():
        if over.wait(1):
            return
    for number, patience in ((signal.SIGINT, PATIENCE), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
        if over.wait(patience):
            return
