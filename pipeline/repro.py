"""`dvc repro`, several stages at a time: every stage goes through `dvc repro --single-item`, siblings side by side.

    python -m pipeline.repro --jobs 2

It leaves what a plain `dvc repro` leaves: a stage's results do not depend on what runs beside it. While trainings run,
`pipeline.track --follow` shows their curves in MLflow.
"""

import concurrent.futures
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from pipeline import locks, paths, resources
from pipeline.stage import RUNNER

LEAVES_WITHIN = 5.0  # seconds
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")


def main(
    jobs: Annotated[int | None, typer.Option(min=1, help="Stages at a time; one per GPU or CPU by default.")] = None,
) -> None:
    """Run every stage whose results are out of date, several at a time, and say what came of each."""
    _use_this_python()
    with _alone():
        _main(jobs)


def _main(jobs: int | None) -> None:
    from dvc.exceptions import DvcException  # noqa: PLC0415 - all of DVC; --help does without
    from dvc.repo import Repo  # noqa: PLC0415

    locks.mend()
    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # what it plans is said below, once it is done
    try:
        with Repo() as repo:
            changed = {stage.addressing for stage in repo.reproduce(dry=True, on_error="ignore")}
            upstream = {stage.addressing: {on.addressing for on in repo.index.graph.successors(stage)}
                        for stage in repo.index.graph}  # fmt: skip
    except DvcException as error:
        _explain(error)
    _check_params(whole=False)
    parameters = _parameters()
    plan = Plan(upstream, changed, {name: _work(name, parameters) for name in upstream})
    if not plan.waiting:
        print("Data and pipelines are up to date.")
        return
    with _interruptible(), _follower(plan):
        failed = Runner(plan, parameters, jobs).run()
    for name in failed:
        log = _log(name)
        print(f"\n{name} failed. Its output, from {log}:\n\n{log.read_text(encoding='utf-8')}", file=sys.stderr)
    if failed:
        skipped = f"; not run for that reason: {', '.join(sorted(plan.waiting))}" if plan.waiting else ""
        print(f"failed: {', '.join(failed)}{skipped}; the other results are kept", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _alone() -> Iterator[None]:
    """Let two of these take turns: each would find the other's stages busy."""
    place = Path(".dvc/tmp")
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / "pipeline.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("another `make repro` is at work here: waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _follower(plan: "Plan") -> Iterator[None]:
    """Show the curves of trainings in MLflow while they run, if any are to run."""
    if not any(name.startswith("train@") for name in plan.waiting):
        yield
        return
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pipeline.track", "--follow"]
    with _log("track").open("w", encoding="utf-8") as file, subprocess.Popen(  # noqa: S603
        command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(LEAVES_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()


def _use_this_python() -> None:
    """Have the stages' `python` be the one that runs this, be its environment active or not."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _check_params(*, whole: bool) -> None:
    """Stop with a sentence for each parameter that is wrong; the entries are looked at, with torch, for the `whole` or
    where something else is wrong.
    """
    from autoencoders.errors import UserError  # noqa: PLC0415
    from pipeline import params  # noqa: PLC0415

    try:
        params.load(variants=whole)
    except UserError as problem:
        if not whole:
            _check_params(whole=True)
        sys.exit(f"\n{problem}\n")


def _explain(error: Exception) -> NoReturn:
    """Say what is wrong with the parameters if that is why DVC cannot even plan, else what DVC says."""
    _check_params(whole=True)
    sys.exit(f"{error}: {error.__cause__ or ''}")


@dataclass
class Plan:
    """Which stages may have to run, and which of them may run now."""

    upstream: Mapping[str, set[str]]  # stage → the stages that it depends on
    changed: set[str]
    work: Mapping[str, float]  # a guess at how long a stage takes, in no unit
    waiting: set[str] = field(default_factory=set)  # to run, not begun
    unfinished: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for name in self.upstream:
            if name in self.changed or self._all_upstream(name) & self.changed:
                self.waiting.add(name)
        self.unfinished = set(self.waiting)

    def ready(self) -> list[str]:
        """The stages that can begin, those with the longest way to the end first."""
        free = [name for name in self.waiting if not self.upstream[name] & self.unfinished]
        return sorted(free, key=lambda name: (-self._way(name), name))

    def _all_upstream(self, name: str) -> set[str]:
        return self.upstream[name].union(*(self._all_upstream(on) for on in self.upstream[name]))

    def _way(self, name: str) -> float:
        return self.work[name] + max((self._way(on) for on, needs in self.upstream.items() if name in needs), default=0)


class Runner:
    """Runs a plan, `jobs` stages at a time, and shares out the CPUs or the GPUs among them."""

    def __init__(self, plan: Plan, parameters: dict[str, Any], jobs: int | None) -> None:
        self.plan, self.started = plan, time.monotonic()
        processes = max(1, _get(parameters, "training", "processes", default=1))  # they share all GPUs
        self.threads = max(1, _get(parameters, "training", "threads", default=1)) * processes
        on_gpu = processes == 1 and _get(parameters, "training", "device", default="auto") != "cpu"
        gpus = resources.gpus() if on_gpu else []
        self.jobs = jobs or len(gpus) or max(1, resources.cpus() // self.threads)
        self.free_cpus = resources.cpus()
        self.slots: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for job in range(self.jobs):
            self.slots.put(gpus[job % len(gpus)] if gpus else None)

    def run(self) -> list[str]:
        """Run all that can be run; returns the stages that failed."""
        failed: list[str] = []
        running: dict[concurrent.futures.Future[int], tuple[str, int]] = {}
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            while True:
                beginning = self.plan.ready()[: self.jobs - len(running)]
                for at, name in enumerate(beginning):
                    cpus = max(self.threads, self.free_cpus // (len(beginning) - at))
                    self.free_cpus -= cpus
                    self.plan.waiting.discard(name)
                    running[pool.submit(self._run, name, cpus)] = name, cpus
                if not running:
                    return failed
                done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    name, cpus = running.pop(future)
                    self.free_cpus += cpus
                    if future.result() == 0:
                        self.plan.unfinished.discard(name)
                    else:
                        failed.append(name)

    def _run(self, name: str, cpus: int) -> int:
        """Run one stage, in a session of its own so that nothing of it is left behind; returns DVC's exit code."""
        gpu = self.slots.get()
        environment = (
            os.environ
            | {resources.CPUS: str(cpus), RUNNER: str(os.getpid())}
            | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        )
        began, what, ran = time.monotonic(), "unchanged", False
        self._say("start", name, f"{cpus} CPU{'s' * (cpus > 1)}" + (f", GPU {gpu}" if gpu else ""))
        log = _log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file, subprocess.Popen(  # noqa: S603
            [*DVC, name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            CHILDREN.add(process.pid)
            threading.Thread(target=_clean_up, args=[process]).start()
            for line in process.stdout or ():
                file.write(line)
                if line.startswith("Running stage"):
                    what, ran = "done", True
                elif "is cached - skipping run" in line:
                    what = "cached"
                elif line.startswith("To track the changes"):
                    ran = False  # what follows is DVC's advice
                elif ran and line.strip() and not line.startswith(("> ", "Updating lock")):
                    _print(f"{name} | {line}")
        self.slots.put(gpu)
        what = what if process.returncode == 0 else "failed"
        self._say(what, name, f"{time.monotonic() - began:.1f} s")
        return process.returncode

    def _say(self, what: str, name: str, remark: str) -> None:
        seconds = int(time.monotonic() - self.started)
        _print(f"{seconds // 60:3d}:{seconds % 60:02d}  {what:9}  {name}  ({remark})\n")


CHILDREN: set[int] = set()  # the process groups of what runs


def _clean_up(process: subprocess.Popen[str]) -> None:
    """Once DVC is over nothing of its stage may go on: a killed DVC leaves it running, and waited for."""
    process.wait()
    CHILDREN.discard(process.pid)
    _kill(process.pid, signal.SIGKILL)


def _print(line: str) -> None:
    print(line, end="", flush=True)  # in one piece: other threads print, too


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and a request to terminate end all running stages, too, and wait for them."""

    def stop(number: int, _: object) -> None:
        for child in tuple(CHILDREN):
            _kill(child, signal.SIGINT)
        sys.exit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:  # it is over
        return


def _log(name: str) -> Path:
    return paths.LOGS / f"{name}.log"


def _parameters() -> dict[str, Any]:
    """`params.yaml` unchecked, empty if it is broken: the stages check it, here it only helps to plan."""
    try:
        content = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    except Exception:  # noqa: BLE001
        return {}
    return content if isinstance(content, dict) else {}


def _get(section: Any, *keys: str, default: Any) -> Any:
    """What is under `keys`, if it is of the same type as `default`."""
    for key in keys:
        section = section.get(key) if isinstance(section, dict) else None
    return section if type(section) is type(default) else default


def _work(name: str, parameters: dict[str, Any]) -> float:
    """A guess at a stage's work: the training steps of its entry, an eighth of them for evaluating it; the classifier's
    own.
    """
    kind, _, entry = name.partition("@")

    def steps(section: dict[str, Any], default: int) -> int:
        inner = [value for key, value in section.items() if isinstance(value, dict) and key != "training"]
        return _get(section, "training", "steps", default=default) + sum(steps(each, 0) for each in inner)

    if kind == "classify":
        return float(_get(parameters, "evaluation", "classifier", "steps", default=1))
    section = _get(parameters, "variants", entry, default={})
    return steps(section, _get(parameters, "training", "steps", default=1)) * (1.0 if kind == "train" else 0.125)


if __name__ == "__main__":
    typer.run(main)
