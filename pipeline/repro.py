"""`dvc repro`, several stages at a time: every stage goes through `dvc repro --single-item`, siblings side by side.

    python -m pipeline.repro --jobs 2                           # processes of this machine
    python -m pipeline.repro --scheduler tls://scheduler:8786   # the workers of a Dask cluster: see `cluster`

It leaves what a plain `dvc repro` leaves: a stage's results do not depend on what runs beside it. While trainings run,
`pipeline.track --follow` shows their curves in MLflow.
"""

import concurrent.futures
import contextlib
import gc
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol

import typer
from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from autoencoders.errors import UserError
from pipeline import RUNNER, locks, paths, resources

LEAVES_WITHIN = 5.0  # seconds
POLL = 1.0  # seconds
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")


def main(
    *,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Stages at a time; one per GPU, CPU or worker by default.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(envvar="AUTOENCODERS_SCHEDULER", help="Of Dask, whose workers run the stages: tcp://… or tls://…"),
    ] = None,
    trust_network: Annotated[
        bool, typer.Option(help="Use a scheduler on another machine without TLS: all who reach it are trusted.")
    ] = False,
) -> None:
    """Run every stage whose results are out of date, several at a time, and say what came of each."""
    _use_this_python()
    with _alone():
        try:
            _main(jobs, scheduler or None, trusted=trust_network)
        except UserError as problem:
            sys.exit(f"\n{problem}\n")


def _main(jobs: int | None, scheduler: str | None, *, trusted: bool) -> None:
    from dvc.exceptions import DvcException  # noqa: PLC0415 - all of DVC; --help does without
    from dvc.repo import Repo  # noqa: PLC0415

    locks.mend()
    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # what it plans is said below, once it is done
    gc.disable()  # a plan of a thousand stages is millions of objects and no garbage
    try:
        with Repo(_wait_for_lock=True) as repo, _one_configuration():
            graph = repo.index.graph
            order = list(TopologicalSorter({stage: graph.successors(stage) for stage in graph}).static_order())
            upstream = {stage.addressing: {on.addressing for on in graph.successors(stage)} for stage in order}
            changed = set[str]()
            for stage in order:
                name, on = stage.addressing, list(graph.successors(stage))
                if upstream[name] & changed or _is_changed(stage, on, elsewhere=scheduler is not None):
                    changed.add(name)
    except DvcException as error:
        _explain(error)
    _check_params(whole=False)
    parameters = _parameters()
    plan = Plan(upstream, changed, {name: _work(name, parameters) for name in upstream})
    if not plan.waiting:
        print("Data and pipelines are up to date.")
        return
    clock = Clock()
    local = Local(parameters, jobs, clock)
    with _interruptible(), contextlib.ExitStack() as stack:
        executor: Executor = local
        if scheduler is None:
            stack.enter_context(following(plan.waiting))
        else:
            from pipeline.cluster import Cluster  # noqa: PLC0415 - an extra

            stages = {stage.addressing: stage for stage in order}
            device = _get(parameters, "training", "device", default="auto")
            cluster = Cluster(
                scheduler, stages, upstream, plan.waiting, local, jobs, clock, device=device, trusted=trusted
            )
            executor = stack.enter_context(cluster)
        gc.enable()
        failed = run(plan, executor)
    for name in failed:
        log = _log(name)
        print(f"\n{name} failed. Its output, from {log}:\n\n{log.read_text(encoding='utf-8')}", file=sys.stderr)
    if failed:
        skipped = f"; not run for that reason: {', '.join(sorted(plan.waiting))}" if plan.waiting else ""
        print(f"failed: {', '.join(failed)}{skipped}; the other results are kept", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _one_configuration() -> Iterator[None]:
    """Have DVC check how local files are reached once, not for each path of each stage: a third of its time."""
    from dvc import output  # noqa: PLC0415

    check, known = output.get_cloud_fs, list[Any]()

    def get_cloud_fs(config: Any, **what: Any) -> Any:
        if set(what) != {"url"} or "://" in what["url"]:
            return check(config, **what)
        if not known:
            known.extend(check(config, **what)[:2])
        kind, options = known
        return kind, dict(options), kind._strip_protocol(what["url"])  # noqa: SLF001

    output.get_cloud_fs = get_cloud_fs
    try:
        yield
    finally:
        output.get_cloud_fs = check


def _is_changed(stage: Any, upstream: list[Any], *, elsewhere: bool) -> bool:
    """What DVC's `Stage.changed` says, without the list of busy files that it writes for every path, which is most of
    its time. Where stages run `elsewhere`, what is missing here is as it was.
    """
    from dvc.exceptions import DvcException  # noqa: PLC0415

    try:
        if stage.changed_stage() or stage.always_changed:
            return True
        for dep in stage.deps:
            status = dep.status()
            missing = elsewhere and dep.hash_info and status.get(str(dep)) == "deleted"
            made = [out.hash_info for on in upstream for out in on.outs if out.fs_path == dep.fs_path]
            if status and not (missing and made in ([], [dep.hash_info])):
                return True
        return any(
            status and not (elsewhere and out.hash_info and status.get(str(out)) in {"deleted", "not in cache"})
            for out in stage.outs
            if (status := out.status())
        )
    except DvcException:  # the stage will say it
        return True


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
def following(names: Iterable[str]) -> Iterator[None]:
    """Show the curves of the trainings among the stages `names` in MLflow while they run.

    On a cluster each worker follows its own stage, so that a training has one writer.
    """
    entries = [name.removeprefix("train@") for name in names if name.startswith("train@")]
    if not entries:
        yield
        return
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pipeline.track", "--follow", "--", *entries]
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
        order = list(TopologicalSorter(self.upstream).static_order())
        for name in order:
            if name in self.changed or self.upstream[name] & self.waiting:
                self.waiting.add(name)
        self.unfinished = set(self.waiting)
        self.way = dict(self.work)  # to the end
        for name in reversed(order):
            for on in self.upstream[name]:
                self.way[on] = max(self.way[on], self.work[on] + self.way[name])

    def ready(self) -> list[str]:
        """The stages that can begin, those with the longest way to the end first."""
        free = [name for name in self.waiting if not self.upstream[name] & self.unfinished]
        return sorted(free, key=lambda name: (-self.way[name], name))


class Clock:
    """Says what happens, with the time since it began."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, what: str, name: str, remark: str) -> None:
        """One line."""
        seconds = int(time.monotonic() - self.started)
        show(f"{seconds // 60:3d}:{seconds % 60:02d}  {what:9}  {name}  ({remark})\n")


@dataclass
class Voice:
    """Shows what a stage says, and notes what DVC says of it."""

    name: str
    told: bool = False  # that it has begun
    what: str = "unchanged"
    ran: bool = False

    def hear(self, line: str) -> None:
        """One more line of its output."""
        if line.startswith("Running stage"):
            self.what, self.ran = "done", True
        elif "is cached - skipping run" in line:
            self.what = "cached"
        elif line.startswith("To track the changes"):
            self.ran = False  # what follows is DVC's advice
        elif self.ran and line.strip() and not line.startswith(("> ", "Updating lock")):
            show(f"{self.name} | {line}")


class Executor(Protocol):
    """Where stages run."""

    def begin(self, names: list[str], running: int) -> dict[Future[bool], str]:
        """Begin as many of the stages `names` as there is room for beside `running` ones. A future is whether its stage
        ended well.
        """

    def ended(self, name: str) -> None:
        """The stage is over."""


def run(plan: Plan, executor: Executor) -> list[str]:
    """Run all that can be run; returns the stages that failed."""
    failed: list[str] = []
    running: dict[Future[bool], str] = {}
    while True:
        begun = executor.begin(plan.ready(), len(running))
        plan.waiting -= set(begun.values())
        running |= begun
        if not running:
            return failed
        done, _ = concurrent.futures.wait(running, POLL, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            name, well = running.pop(future), future.result()
            executor.ended(name)
            if well:
                plan.unfinished.discard(name)
            else:
                failed.append(name)


class Local:
    """Runs stages as processes here, `jobs` at a time, and shares out the CPUs or the GPUs among them."""

    def __init__(self, parameters: dict[str, Any], jobs: int | None, clock: Clock) -> None:
        self.clock = clock
        processes = max(1, _get(parameters, "training", "processes", default=1))  # they share all GPUs
        self.threads = processes * max(1, _get(parameters, "training", "threads", default=1))
        on_gpu = processes == 1 and _get(parameters, "training", "device", default="auto") != "cpu"
        gpus = resources.gpus() if on_gpu else []
        seeds = len(_get(parameters, "seeds", default=[0]))
        entries = max(1, (resources.per_gpu() or 1) // max(1, seeds))  # that share a GPU
        self.jobs = jobs or len(gpus) * entries or max(1, resources.cpus() // self.threads)
        self.free_cpus = resources.cpus()
        self.cpus: dict[str, int] = {}  # of what runs
        self.slots: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for job in range(self.jobs):
            self.slots.put(gpus[job % len(gpus)] if gpus else None)
        self.pool = ThreadPoolExecutor(self.jobs)
        self.around: Callable[[str], AbstractContextManager[None]] = lambda _: contextlib.nullcontext()

    def begin(self, names: list[str], running: int) -> dict[Future[bool], str]:
        """Begin stages, each with its share of the CPUs."""
        names = names[: self.jobs - running]
        begun = {}
        for at, name in enumerate(names):
            self.cpus[name] = max(self.threads, self.free_cpus // (len(names) - at))
            self.free_cpus -= self.cpus[name]
            begun[self.pool.submit(self._run, name, self.cpus[name])] = name
        return begun

    def ended(self, name: str) -> None:
        """Its CPUs are free."""
        self.free_cpus += self.cpus.pop(name)

    def _run(self, name: str, cpus: int) -> bool:
        """Run one stage, in a session of its own so that nothing of it is left behind."""
        gpu = self.slots.get()
        environment = (
            os.environ
            | {resources.CPUS: str(cpus), RUNNER: str(os.getpid())}
            | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        )
        began, voice = time.monotonic(), Voice(name)
        self.clock.say("start", name, f"{cpus} CPU{'s' * (cpus > 1)}" + (f", GPU {gpu}" if gpu else ""))
        log = _log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with self.around(name), log.open("w", encoding="utf-8") as file, subprocess.Popen(  # noqa: S603
            [*DVC, name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            CHILDREN.add(process.pid)
            threading.Thread(target=_clean_up, args=[process]).start()
            for line in process.stdout or ():
                file.write(line)
                voice.hear(line)
        self.slots.put(gpu)
        self.clock.say(voice.what if process.returncode == 0 else "failed", name, f"{time.monotonic() - began:.1f} s")
        return process.returncode == 0


CHILDREN: set[int] = set()  # the process groups of what runs


def _clean_up(process: subprocess.Popen[str]) -> None:
    """Once DVC is over nothing of its stage may go on: a killed DVC leaves it running, and waited for."""
    process.wait()
    CHILDREN.discard(process.pid)
    _kill(process.pid, signal.SIGKILL)


def show(line: str) -> None:
    """Print it in one piece: other threads print, too."""
    print(line, end="", flush=True)


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
