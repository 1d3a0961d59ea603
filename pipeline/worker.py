"""A worker of a cluster: what Dask calls on it, and a command that starts the workers of one machine.

    python -m pipeline.worker tls://scheduler:8786

A worker needs nothing but git, this repository's environment and DVC's remote: it is told what to run, gets the code
from the remote too, and runs each stage in a clone of its own.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from autoencoders.errors import UserError
from pipeline import RUNNER, resources

CODE = "refs/autoencoders/code"  # what a bundle of the code calls the commit in it
CPUS_EACH = 4  # of a worker on a machine without GPUs
PATIENCE = 10.0  # seconds in which a stage that nobody wants any more is to leave in order
ANSWER = "\x1eanswer "  # begins the line with an `elsewhere.Answer`, and none of a stage


def main(
    scheduler: Annotated[str, typer.Argument(help="Dask's: tls://HOST:PORT, or tcp://… in a network that you trust.")],
    *,
    workers: Annotated[
        int | None, typer.Option(min=1, help=f"How many; one per GPU by default, or per {CPUS_EACH} CPUs.")
    ] = None,
) -> None:
    """Start workers on this machine, each with a GPU or a share of the CPUs, and have them wait for stages."""
    gpus = resources.gpus()
    try:
        cpus = resources.cpus()
    except UserError as problem:
        sys.exit(f"\n{problem}\n")
    count = workers or len(gpus) or max(1, cpus // CPUS_EACH)
    share = str(max(1, cpus // count))
    running = []
    for number in range(count):
        gpu = gpus[number % len(gpus)] if gpus else None
        command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--nthreads", "1", "--no-dashboard",
                   "--name", f"{socket.gethostname()}-{os.getpid()}-{number}",
                   *(["--resources", "GPU=1"] if gpu else [])]  # fmt: skip
        own = {resources.CPUS: share} | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        running.append(subprocess.Popen(command, env=os.environ | own))  # noqa: S603
    try:
        sys.exit(max(process.wait() for process in running))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        for process in running:
            process.terminate()


def work(order: dict[str, Any], topic: str) -> dict[str, Any]:
    """Run a stage as an `elsewhere.Order` says, in this worker's clone; its `Answer`, and what the stage said as "log".

    Dask calls this. It waits for a process and computes nothing itself: a worker that is silent is taken for dead.
    """
    from distributed import get_worker  # noqa: PLC0415

    worker = get_worker()
    key = worker.get_current_task()
    log: list[str] = []

    def tell(**what: str) -> None:
        worker.log_event(topic, {"stage": order["stage"], "who": str(worker.name)} | what)

    def said(line: str) -> None:
        log.append(line)
        tell(line=line)

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing"

    tell(what="start")
    try:
        # Kept with the worker: this module comes with every stage anew.
        clone = worker.extensions.setdefault("autoencoders", Clone(Path(worker.local_directory) / "clone"))
        clone.bring(order)
        answer = clone.run(order, said, wanted)
    except Exception as error:  # noqa: BLE001 - the one who asked is to know, whatever it is
        said(f"on {worker.name}: {type(error).__name__}: {error}\n")
        answer = {"how": "failed", "entry": None}
    return answer | {"log": "".join(log), "worker": str(worker.name)}


class Clone:
    """A clone that nobody else works in; DVC's locks know the processes of one machine alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None  # `elsewhere`, at work or waiting for it
        if not (folder / ".git").exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._git("init", "--quiet")

    def bring(self, order: dict[str, Any]) -> None:
        """Have the code of an order, as its user has it: their commit, and on top of it what they have changed."""
        code, head, remote = order["code"], order["head"], order["remote"]
        here, asked = self.folder / ".git/code", json.dumps([code, head, remote, order["environment"]])
        if here.exists() and here.read_text(encoding="utf-8") == asked:
            return
        if self.process:
            self.process.kill()  # it knows other code, or another remote
            self.process = None
        bundle = self.folder / ".git/code.bundle"
        files, path = storage(remote)
        files.get_file(files.join(path, "code", f"{code}.bundle"), str(bundle))
        self._git("fetch", "--quiet", "--force", str(bundle), f"{CODE}:{CODE}")
        bundle.unlink()
        self._git("checkout", "--quiet", "--force", "--detach", head)
        self._git("clean", "--quiet", "--force", "-d")
        self._git("checkout", "--quiet", "--force", "--no-overlay", code, "--", ".")
        self._git("reset", "--quiet")  # what has changed since the commit is a change here, too
        lines = [f"    {key} = {value}" for key, value in remote.items()]
        config = ["[core]", "    remote = cluster", "    autostage = false", "['remote \"cluster\"']", *lines, ""]
        (self.folder / ".dvc/config.local").write_text("\n".join(config), encoding="utf-8")
        here.write_text(asked, encoding="utf-8")

    def run(self, order: dict[str, Any], said: Callable[[str], object], wanted: Callable[[], bool]) -> dict[str, Any]:
        """Run a stage for as long as it is `wanted`; each line that it says is `said`."""
        if self.process is None or self.process.poll() is not None:
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
            own = {"PATH": path, "PYTHONPATH": "src", RUNNER: str(os.getpid())} | order["environment"]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.elsewhere"], cwd=self.folder, env=os.environ | own, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                start_new_session=True,
            )  # fmt: skip
        process, over = self.process, threading.Event()
        threading.Thread(target=_watch, args=[process, wanted, over], daemon=True).start()
        try:
            print(json.dumps(order), file=process.stdin, flush=True)
            for line in process.stdout or ():
                if line.startswith(ANSWER):
                    answer: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
                    return answer
                said(line)
        except BrokenPipeError:
            pass
        finally:
            over.set()
        said(f"the process of the stage ended with code {process.wait()}\n")
        self.process = None
        return {"how": "failed", "entry": None}

    def _git(self, *arguments: str) -> None:
        git(*arguments, folder=self.folder)


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
    """End a stage that nobody waits for any more: whoever asked has gone, or has been interrupted."""
    while wanted():
        if over.wait(1):
            return
    for number, patience in ((signal.SIGINT, PATIENCE), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
        if over.wait(patience):
            return


if __name__ == "__main__":
    typer.run(main)
