"""Runs stages of `dvc.yaml` on this machine, several at a time, and divides the CPUs and GPUs among the stages.

An entry is a model with its settings in params.yaml. A stage `train@entry` trains an entry with several random seeds.
"""

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

SOON = 60.0  # seconds after which a run starts the process that sends learning curves to MLflow
LEAVES_WITHIN = 5.0  # seconds between SIGTERM and SIGKILL for the process that sends learning curves
FOLLOWER = (sys.executable, "-m", "pipeline.reporting.track", "--follow")


class Executor(Protocol):
    """Interface of the objects that run stages, on this machine or on a cluster."""

    def begin(self, names: list[str]) -> dict[Future[bool], str]:
        """Start as many of the stages `names` as the free CPUs or the free workers allow.

        Returns:
            A mapping from the future of each started stage to the stage's name. The future's result is whether the
            stage succeeded.
        """

    def end(self, name: str) -> None:
        """Note that the stage `name` has ended."""


class CpuShares:
    """Divides the CPUs among the running stages.

    Args:
        cpus: number of CPUs.
        threads: minimum number of CPUs for a stage, which is the number of CPUs that the training of one seed uses.
        jobs: maximum number of stages at a time.
        seeds: number of seeds that a stage `train@entry` trains at once if there are enough CPUs.
    """

    def __init__(self, cpus: int, threads: int, jobs: int, seeds: int) -> None:
        self.free, self.threads, self.jobs = max(cpus, jobs * threads), threads, jobs
        # Number of CPUs with which a stage `train@entry` trains all its seeds at once. If the CPUs do not suffice for
        # `jobs` trainings of one seed, the number suffices for only one seed.
        self.all_seeds = threads * (seeds if jobs * threads <= cpus else 1)
        self.taken: dict[str, int] = {}

    def take(self, names: list[str]) -> dict[str, int]:
        """Assign CPUs to the first stages of `names`, until `jobs` stages run or all CPUs are assigned.

        The stages get equal numbers of CPUs. But a stage `train@entry` gets CPUs for all its seeds if enough CPUs are
        free, because later stages may have to wait for this training.

        Returns:
            The number of CPUs of each stage that can start now, by the name of the stage.
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
        """Free the CPUs of a stage that has ended."""
        self.free += self.taken.pop(name, 0)


class LocalExecutor:
    """Runs stages on this machine, up to `jobs` at a time.

    DVC's work before and after a stage's command runs in this process. The command runs in a process of its own.

    Args:
        params: the checked parameters.
        jobs: maximum number of stages at a time; None for as many as the CPUs or GPUs allow.
        console: prints the start and the end of each stage.
        dvc: the stages.
        keeps: file descriptors that the processes of the commands inherit.

    Attributes:
        around: function that returns a context manager for a stage's name. The stage runs inside its `with` block.
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
            gpus, entries = [None], 1  # each training uses all GPUs
        else:
            entries = max(1, (resources.per_gpu() or 1) // len(params.seeds))  # entries that share one GPU
        self.jobs = jobs or len(gpus) * entries or max(1, resources.cpus() // threads)
        seeds = 1 if gpus else len(params.seeds)  # on a GPU, all seeds share the CPUs of one seed
        self.shares = CpuShares(resources.cpus(), threads, self.jobs, seeds)
        self.slots: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for job in range(self.jobs):
            self.slots.put(gpus[job % len(gpus)] if gpus else None)
        self.pool = ThreadPoolExecutor(self.jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the running stages, write their results to dvc.lock, and print the CPU time."""
        self.pool.shutdown()
        self.dvc.write_lock()
        own, commands = (sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        self.console.sum_up(f"CPU seconds: {commands:,.0f} of commands, {own:,.0f} of the runner")

    def begin(self, names: list[str]) -> dict[Future[bool], str]:
        """Start the first stages of `names`, as many as the free CPUs allow."""
        shares = self.shares.take(names)
        return {self.pool.submit(self._run, name, cpus): name for name, cpus in shares.items()}

    def end(self, name: str) -> None:
        """Free the CPUs of a stage that has ended."""
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
        # An unchanged stage was planned only because it reads the output of another planned stage. Print no line.
        if outcome == "unchanged":
            return True
        self.console.say(outcome, name, f"{time.monotonic() - began:.1f} s")
        if outcome != "failed" and (seen := first_look(name)):
            show(f"{name} | {seen}\n")
        return outcome != "failed"

    def _outcome(self, name: str, share: str, environment: dict[str, str], log: TextIO) -> str:
        """Bring a stage up to date, and return the outcome: unchanged, cached, done or failed."""
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
        """Run a command of a stage, show its output, and return whether the command succeeded.

        The command gets a session of its own, so that a signal reaches all processes that the command starts.
        """
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
    """The process groups of the running commands. A signal to a group reaches all its processes."""

    def __init__(self) -> None:
        self.running = set[int]()
        self.ended = False

    def add(self, group: int) -> None:
        """Add the group of a command that has started. If `end` was called earlier, end this group at once."""
        self.running.add(group)
        if self.ended:
            _signal(group, signal.SIGINT)

    def end(self) -> None:
        """Interrupt all groups now, and each group that is added later."""
        self.ended = True
        for group in tuple(self.running):
            _signal(group, signal.SIGINT)


GROUPS = ProcessGroups()


def _clean_up(process: subprocess.Popen[str]) -> None:
    """Wait until a command ends, then kill the processes that the command has left.

    Without this function, the runner would wait for the output of these processes.
    """
    process.wait()
    GROUPS.running.discard(process.pid)
    _signal(process.pid, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:  # the group has ended
        return


def end_stages_on_signals() -> None:
    """Install signal handlers: Ctrl-C and SIGTERM end all running stages, then the runner."""

    def stop(number: int, _: object) -> None:
        GROUPS.end()
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


@contextmanager
def following(names: Iterable[str]) -> Iterator[None]:
    """Send learning curves to MLflow during a `with` block, if one of the stages `names` is a training."""
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
    """After a minute, start the process that sends learning curves to MLflow. End this process when the run is `over`.

    A run of less than a minute does not start the process.
    """
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
