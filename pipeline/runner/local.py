"""Stages as processes of this machine, several at a time, with the CPUs or the GPUs shared out among them."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from pipeline import RUNNER
from pipeline.common import resources
from pipeline.common.params import Params
from pipeline.runner.console import ConsoleLog, StageOutput, log_file

LEAVES_WITHIN = 5.0  # seconds
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")
FOLLOWER = (sys.executable, "-m", "pipeline.reporting.track", "--follow")


class Executor(Protocol):
    """Where stages run."""

    def begin(self, names: list[str]) -> dict[Future[bool], str]:
        """Begin as many of the stages `names` as there is room for. A future is whether its stage ended well."""

    def end(self, name: str) -> None:
        """Take note that a stage is over."""


class LocalExecutor:
    """Runs stages as processes here, `jobs` at a time, each `around`ed by what has to happen before and after it."""

    def __init__(
        self,
        params: Params,
        jobs: int | None,
        console: ConsoleLog,
        around: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.console, self.around = console, around
        training = params.training
        self.threads = training.processes * training.threads
        on_gpu = training.processes == 1 and training.device != "cpu"  # several processes share all GPUs
        gpus = resources.gpus() if on_gpu else []
        entries = max(1, (resources.per_gpu() or 1) // len(params.seeds))  # that share a GPU
        self.free_cpus = resources.cpus()
        self.jobs = jobs or len(gpus) * entries or max(1, self.free_cpus // self.threads)
        self.cpus: dict[str, int] = {}  # of what runs
        self.slots: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for job in range(self.jobs):
            self.slots.put(gpus[job % len(gpus)] if gpus else None)
        self.pool = ThreadPoolExecutor(self.jobs)

    def begin(self, names: list[str]) -> dict[Future[bool], str]:
        """Begin stages, each with its share of the CPUs."""
        names = names[: self.jobs - len(self.cpus)]
        begun = {}
        for at, name in enumerate(names):
            self.cpus[name] = max(self.threads, self.free_cpus // (len(names) - at))
            self.free_cpus -= self.cpus[name]
            begun[self.pool.submit(self._run, name, self.cpus[name])] = name
        return begun

    def end(self, name: str) -> None:
        """Free its CPUs."""
        self.free_cpus += self.cpus.pop(name, 0)

    def _run(self, name: str, cpus: int) -> bool:
        """Run one stage, in a session of its own so that nothing of it is left behind."""
        gpu = self.slots.get()
        own = {resources.CPUS: str(cpus), RUNNER: str(os.getpid())} | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        began, output = time.monotonic(), StageOutput(name)
        self.console.say("start", name, f"{cpus} CPU{'s' * (cpus > 1)}" + (f", GPU {gpu}" if gpu else ""))
        with self.around(name), log_file(name).open("w", encoding="utf-8") as file, subprocess.Popen(  # noqa: S603
            [*DVC, name], env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            GROUPS.add(process.pid)
            threading.Thread(target=_clean_up, args=[process]).start()
            for line in process.stdout or ():
                file.write(line)
                output.read(line)
        self.slots.put(gpu)
        well = process.returncode == 0
        self.console.say(output.outcome if well else "failed", name, f"{time.monotonic() - began:.1f} s")
        return well


GROUPS: set[int] = set()  # the process groups of the stages that run


def _clean_up(process: subprocess.Popen[str]) -> None:
    """Once DVC is over nothing of its stage may go on: a killed DVC leaves it running, and waited for."""
    process.wait()
    GROUPS.discard(process.pid)
    _signal(process.pid, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:  # it is over
        return


def end_stages_on_signals() -> None:
    """Have Ctrl-C and a request to terminate end all running stages, too, and wait for them."""

    def stop(number: int, _: object) -> None:
        for group in tuple(GROUPS):
            _signal(group, signal.SIGINT)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


@contextmanager
def following(names: Iterable[str]) -> Iterator[None]:
    """Show the curves of trainings in MLflow while they run, if any of the stages `names` is one."""
    if not any(name.startswith("train@") for name in names):
        yield
        return
    with log_file("track").open("w", encoding="utf-8") as file, subprocess.Popen(  # noqa: S603
        FOLLOWER, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(LEAVES_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
