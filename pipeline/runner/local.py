"""Runs stages as processes of this machine, several at a time, and divides the CPUs or GPUs among them."""

import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, Self, TextIO

from dvc.exceptions import DvcException

from pipeline import RUNNER
from pipeline.common import resources
from pipeline.common.params import Params
from pipeline.runner.console import ConsoleLog, log_file, show
from pipeline.runner.dvc_stages import DvcStages
from pipeline.runner.first_look import first_look

SOON = 60.0  # seconds until MLflow shows the curves of trainings
LEAVES_WITHIN = 5.0  # seconds after which the process that shows the curves is killed, if it has not ended
FOLLOWER = (sys.executable, "-m", "pipeline.reporting.track", "--follow")


class Executor(Protocol):
    """Interface of the objects that run stages, on this machine or on a cluster."""

    def begin(self, names: list[str]) -> dict[Future[bool], str]:
        """Start as many of the stages `names` as there is room for; each future says whether its stage succeeded."""

    def end(self, name: str) -> None:
        """Note that a stage has ended."""


class CpuShares:
    """Divides the CPUs among up to `jobs` stages, each with at least the `threads` of a training."""

    def __init__(self, cpus: int, threads: int, jobs: int, seeds: int) -> None:
        self.free, self.threads, self.jobs = max(cpus, jobs * threads), threads, jobs
        # CPUs for all seeds of a training at once; for one seed, if there are too few CPUs for one seed per job.
        self.all_seeds = threads * (seeds if jobs * threads <= cpus else 1)
        self.taken: dict[str, int] = {}

    def take(self, names: list[str]) -> dict[str, int]:
        """Assign CPUs to the first stages of `names`, until the jobs or the CPUs are used up.

        The stages share the CPUs evenly. But a training gets CPUs for all its seeds, if enough are free, because
        the whole run may wait for the training.
        """
        names, begun = names[: self.jobs - len(self.taken)], dict[str, int]()
        for at, name in enumerate(names):
            if self.taken and self.free < self.threads:
                break
            even = self.free // (len(names) - at)
            alone = name.startswith("train@") and even < self.all_seeds < self.free
            begun[name] = self.taken[name] = max(self.threads, self.all_seeds if alone else even)
            self.free -= begun[name]
        return begun

    def give_back(self, name: str) -> None:
        """Free the CPUs of an ended stage."""
        self.free += self.taken.pop(name, 0)


class LocalExecutor:
    """Runs stages on this machine, `jobs` at a time, each inside the context manager `around`.

    DVC's work runs in this process. A stage's command runs in another process, which inherits the file descriptors
    `keeps`.
    """

    def __init__(
        self,
        params: Params,
        jobs: int | None,
        console: ConsoleLog,
        dvc: DvcStages,
        *,
        keeps: tuple[int, ...] = (),
    ) -> None:
        self.console, self.dvc, self.keeps = console, dvc, keeps
        self.around: Callable[[str], AbstractContextManager[object]] = nullcontext
        training = params.training
        threads = training.processes * training.threads
        gpus: list[str | None] = [*resources.gpus()] if training.device in {"auto", "cuda"} else []
        if gpus and training.processes > 1:
            gpus, entries = [None], 1  # a training uses all GPUs
        else:
            entries = max(1, (resources.per_gpu() or 1) // len(params.seeds))  # entries that share a GPU
        self.jobs = jobs or len(gpus) * entries or max(1, resources.cpus() // threads)
        seeds = 1 if gpus else len(params.seeds)  # seeds with CPUs of their own; on a GPU, seeds share CPUs
        self.shares = CpuShares(resources.cpus(), threads, self.jobs, seeds)
        self.slots: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for job in range(self.jobs):
            self.slots.put(gpus[job % len(gpus)] if gpus else None)
        self.pool = ThreadPoolExecutor(self.jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the running stages, and write their results to dvc.lock."""
        self.pool.shutdown()
        self.dvc.write_lock()
        own, commands = (sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        self.console.sum_up(f"CPU seconds: {commands:,.0f} of commands, {own:,.0f} of the runner")

    def begin(self, names: list[str]) -> dict[Future[bool], str]:
        """Start stages, each with its share of the CPUs."""
        shares = self.shares.take(names)
        return {self.pool.submit(self._run, name, cpus): name for name, cpus in shares.items()}

    def end(self, name: str) -> None:
        """Free the CPUs of a stage."""
        self.shares.give_back(name)

    def _run(self, name: str, cpus: int) -> bool:
        """Run a stage; return whether it succeeded."""
        gpu = self.slots.get()
        began = time.monotonic()
        share = f"{cpus} CPU{'s' * (cpus > 1)}" + (f", GPU {gpu}" if gpu else "")
        own = {resources.CPUS: str(cpus), RUNNER: str(os.getpid())} | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        with self.around(name), log_file(name).open("w", encoding="utf-8") as log:
            outcome = self._outcome(name, share, own, log)
        self.slots.put(gpu)
        if outcome == "unchanged":  # planned only because an earlier stage always runs, whose output is the same again
            return True
        self.console.say(outcome, name, f"{time.monotonic() - began:.1f} s")
        if outcome != "failed" and (seen := first_look(name)):
            show(f"{name} | {seen}\n")
        return outcome != "failed"

    def _outcome(self, name: str, share: str, environment: dict[str, str], log: TextIO) -> str:
        """Return the outcome of a stage: unchanged, cached, done or failed."""
        try:
            if outcome := self.dvc.begin(name, log):
                return outcome
            self.console.say("start", name, share)
            commands = self.dvc.commands(name, environment)
            if all(self._command(name, command, arguments, log) for command, arguments in commands):
                self.dvc.finish(name, log)
                return "done"
            self.dvc.abandon(name, log)
        except (DvcException, OSError) as error:
            print(f"ERROR: {error}" + (f": {error.__cause__}" if error.__cause__ else ""), file=log)
        except Exception:  # noqa: BLE001 - the other stages continue
            traceback.print_exc(file=log)
        return "failed"

    def _command(self, name: str, command: list[str] | str, arguments: dict[str, Any], log: TextIO) -> bool:
        """Run a command in its own session, so that none of its processes survive; return whether it succeeded."""
        if GROUPS.ended:
            return False
        print(">", command if isinstance(command, str) else command[-1], file=log)
        with subprocess.Popen(  # noqa: S603
            command, **arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True, pass_fds=self.keeps,
        ) as process:  # fmt: skip
            GROUPS.add(process.pid)
            threading.Thread(target=_clean_up, args=[process]).start()
            for line in process.stdout or ():
                log.write(line)
                if line.strip():
                    show(f"{name} | {line}")
        return process.returncode == 0


class ProcessGroups:
    """The process groups of the running commands."""

    def __init__(self) -> None:
        self.running = set[int]()
        self.ended = False

    def add(self, group: int) -> None:
        """Add a group that has started; end the group if `end` was called before."""
        self.running.add(group)
        if self.ended:
            _signal(group, signal.SIGINT)

    def end(self) -> None:
        """End all groups, and each group that starts later."""
        self.ended = True
        for group in tuple(self.running):
            _signal(group, signal.SIGINT)


GROUPS = ProcessGroups()


def _clean_up(process: subprocess.Popen[str]) -> None:
    """Kill the remaining processes of an ended command, because the runner would wait for their output."""
    process.wait()
    GROUPS.running.discard(process.pid)
    _signal(process.pid, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:  # the group has ended
        return


def end_stages_on_signals() -> None:
    """On Ctrl-C or SIGTERM, end all running stages and wait for them."""

    def stop(number: int, _: object) -> None:
        GROUPS.end()
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


@contextmanager
def following(names: Iterable[str]) -> Iterator[None]:
    """Show the curves of running trainings in MLflow, if any of the stages `names` is a training."""
    if not any(name.startswith("train@") for name in names):
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=[over])
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(over: threading.Event) -> None:
    """Start the process that shows the curves, unless the run ends within a minute; end it with the run."""
    if over.wait(SOON):
        return
    with log_file("track").open("w", encoding="utf-8") as file, subprocess.Popen(  # noqa: S603
        FOLLOWER, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:  # fmt: skip
        over.wait()
        process.terminate()
        try:
            process.wait(LEAVES_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
