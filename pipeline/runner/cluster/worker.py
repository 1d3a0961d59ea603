"""The code that Dask runs on a worker: it runs a stage in the worker's own clone of the repository.

A worker needs only git, this repository's environment and DVC's remote, from which the code comes too. Dask sends this
file by value, so this file must not import other modules of `pipeline`.
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

CODE = "refs/aelab/code"  # git's reference of the commit with the code, also inside a bundle
PATIENCE = 10.0  # seconds between SIGINT and SIGKILL for a stage that nobody needs any more
RESULT = "\x1eresult "  # prefix of the line that follows a stage's output and holds the stage's entry in dvc.lock


class Checkout(TypedDict):
    """Where a worker finds the code, and with which settings it runs the code."""

    bundle: str  # file name of a git bundle in the remote's folder `code`
    head: str  # the caller's commit, for the provenance
    remote: dict[str, Any]  # the remote's section in DVC's configuration
    environment: dict[str, str]  # variables for MLflow


class StageRequest(TypedDict):
    """The message that tells a worker which stage to run. Secrets are not part of the message."""

    stage: str
    inputs: list[str]  # outputs of other stages that the stage reads
    lock: dict[str, dict[str, Any]]  # entries in dvc.lock of all stages on which the stage depends directly
    checkout: Checkout


def work(request: StageRequest, topic: str) -> tuple[dict[str, Any] | None, str]:
    """Run a stage in this worker's clone. Return the stage's entry in dvc.lock, None if it failed, and its output.

    Dask also sends each line of output to the caller, under the name `topic`. Another process runs the stage, so that
    the worker can answer Dask, which declares silent workers dead.
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
        # The clone is stored on the worker, because this module is loaded again for every stage.
        clone = worker.extensions.get("aelab") or Clone(Path(worker.local_directory) / "clone")
        worker.extensions["aelab"] = clone
        clone.update(request["checkout"])
        entry = clone.run(request, show, wanted)
    except Exception as error:  # noqa: BLE001 - the caller gets every error
        show(f"on {worker.name}: {type(error).__name__}: {error}\n")
    return entry, "".join(log)


class Clone:
    """The worker's own clone. No other worker uses the clone, since DVC's locks work only on one machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout: Checkout | None = None
        self.process: subprocess.Popen[str] | None = None  # the process of `worker_stage`
        folder.mkdir(parents=True, exist_ok=True)
        git("init", "--quiet", folder=folder)

    def update(self, checkout: Checkout) -> None:
        """Check out the caller's commit, and apply the caller's uncommitted changes."""
        if self.checkout == checkout:
            return
        if self.process:
            self.process.kill()  # this process has loaded other code, or another remote
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
            ("reset", "--quiet"),  # uncommitted changes stay uncommitted
        ):
            git(*command, folder=self.folder)
        lines = [f"    {key} = {value}" for key, value in remote.items()]
        config = ["[core]", "    remote = cluster", "    autostage = false", "['remote \"cluster\"']", *lines, ""]
        (self.folder / ".dvc/config.local").write_text("\n".join(config), encoding="utf-8")
        self.checkout = checkout

    def run(
        self, request: StageRequest, show: Callable[[str], object], wanted: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """Run a stage while its result is `wanted`. Return the stage's entry in dvc.lock; None if the stage failed."""
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
    """Run a git command in `folder`, and return its output.

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
    """Return the file system of a DVC remote with this configuration, and the remote's folder in that file system."""
    from dvc.fs import get_cloud_fs  # noqa: PLC0415

    kind, config, path = get_cloud_fs({"core": {}, "remote": {"cluster": remote}}, name="cluster")
    return kind(**config), path


def _watch(process: subprocess.Popen[str], wanted: Callable[[], bool], over: threading.Event) -> None:
    """End a stage once its caller is gone or interrupted."""
    while wanted():
        if over.wait(1):
            return
    for number, patience in ((signal.SIGINT, PATIENCE), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
        if over.wait(patience):
            return
