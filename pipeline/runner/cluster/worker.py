"""What Dask calls on a worker: a stage, in a clone of the worker's own.

A worker needs nothing but git, this repository's environment and DVC's remote: the caller says what to run, and the
code comes from the remote, too. Dask hands over this file itself, so it uses nothing else of `pipeline`.
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

CODE = "refs/aelab/code"  # what a bundle of the code calls the commit in it
PATIENCE = 10.0  # seconds in which a stage that nobody wants any more is to leave in order
RESULT = "\x1eresult "  # begins the line that ends a stage, and none of its output


class Checkout(TypedDict):
    """The code that a stage runs on, and where it is."""

    bundle: str  # of git, in the remote's folder `code`
    head: str  # the commit that it is based on, which provenance names
    remote: dict[str, Any]  # as in DVC's configuration
    environment: dict[str, str]


class StageRequest(TypedDict):
    """What a worker is asked to do; nothing in it is secret."""

    stage: str
    inputs: list[str]  # the outputs of other stages that it reads
    lock: dict[str, dict[str, Any]]  # the entries of these stages in dvc.lock
    checkout: Checkout


def work(request: StageRequest, topic: str) -> tuple[dict[str, Any] | None, str]:
    """Run a stage in this worker's clone; its entry in dvc.lock, None if it failed, and its output. Dask passes each
    line on under `topic`, too.

    It waits for a process and computes nothing itself: a worker that is silent is taken for dead.
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
        # Kept with the worker: this module comes with every stage anew.
        clone = worker.extensions.get("aelab") or Clone(Path(worker.local_directory) / "clone")
        worker.extensions["aelab"] = clone
        clone.update(request["checkout"])
        entry = clone.run(request, show, wanted)
    except Exception as error:  # noqa: BLE001 - the caller gets it, whatever it is
        show(f"on {worker.name}: {type(error).__name__}: {error}\n")
    return entry, "".join(log)


class Clone:
    """A clone that nobody else works in; DVC's locks know the processes of one machine alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout: Checkout | None = None
        self.process: subprocess.Popen[str] | None = None  # `worker_stage`, at work or waiting for it
        folder.mkdir(parents=True, exist_ok=True)
        git("init", "--quiet", folder=folder)

    def update(self, checkout: Checkout) -> None:
        """Have the code as the caller has it: their commit, and on top of it what they have changed."""
        if self.checkout == checkout:
            return
        if self.process:
            self.process.kill()  # it knows other code, or another remote
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
            ("reset", "--quiet"),  # what has changed since the commit is a change here, too
        ):
            git(*command, folder=self.folder)
        lines = [f"    {key} = {value}" for key, value in remote.items()]
        config = ["[core]", "    remote = cluster", "    autostage = false", "['remote \"cluster\"']", *lines, ""]
        (self.folder / ".dvc/config.local").write_text("\n".join(config), encoding="utf-8")
        self.checkout = checkout

    def run(
        self, request: StageRequest, show: Callable[[str], object], wanted: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """Run a stage for as long as it is `wanted`; its entry in dvc.lock, None if it failed."""
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
    """What git says.

    Raises:
        RuntimeError: it fails.
    """
    done = subprocess.run(  # noqa: S603
        ["git", *arguments], cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        msg = f"git {arguments[0]}: {done.stderr.strip()}"
        raise RuntimeError(msg)
    return done.stdout.strip()


def storage(remote: dict[str, Any]) -> tuple[Any, str]:
    """The file system of a DVC remote, given its configuration, and the remote's folder there."""
    from dvc.fs import get_cloud_fs  # noqa: PLC0415

    kind, config, path = get_cloud_fs({"core": {}, "remote": {"cluster": remote}}, name="cluster")
    return kind(**config), path


def _watch(process: subprocess.Popen[str], wanted: Callable[[], bool], over: threading.Event) -> None:
    """End a stage that nobody waits for any more: the caller has gone, or has been interrupted."""
    while wanted():
        if over.wait(1):
            return
    for number, patience in ((signal.SIGINT, PATIENCE), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
        if over.wait(patience):
            return
