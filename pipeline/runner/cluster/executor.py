"""Runs stages on the workers of a Dask cluster. `pipeline.runner.repro --scheduler` uses this executor.

This machine decides which stage runs next, and only this machine writes `dvc.lock`. A worker receives the name of a
stage and the hashes of the stage's inputs. The worker gets code and data from DVC's remote, and pushes the results
to the remote. Then the worker returns the stage's section for `dvc.lock`.

If a worker dies, Dask gives the stage to another worker. So a stage may run twice, but `dvc.lock` records one result.
"""

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
import distributed

from aelab.core.errors import UserError
from pipeline.runner.cluster import worker
from pipeline.runner.cluster.handover import Handover
from pipeline.runner.console import StageOutput, log_file
from pipeline.runner.local import LocalExecutor
from pipeline.runner.plan import Plan

cloudpickle.register_pickle_by_value(worker)  # Dask sends the module's code to workers, which may lack `pipeline`

CONNECTS_WITHIN = 10.0  # the scheduler must answer within this number of seconds
WORKERS_WITHIN = 60.0  # after this number of seconds without any worker, the command ends with an error


@contextmanager
def on_cluster(
    address: str, plan: Plan, local: LocalExecutor, jobs: int | None, *, trusted: bool
) -> Iterator["ClusterExecutor"]:
    """Yield an executor, which runs stages on the workers of a scheduler.

    Args:
        address: address of the scheduler.
        plan: the stages to run.
        local: executor for the stages that must run on this machine.
        jobs: maximum number of stages at once; None for one stage on each worker.
        trusted: whether the user trusts the network, so that the connection may be unencrypted.

    Raises:
        UserError: the connection is neither encrypted nor in a trusted network, no scheduler answers, or DVC has no
            remote that workers can use.
    """
    client = connect(address, trusted=trusted)
    handover = Handover(local.dvc, plan)
    local.around = handover.around
    with local:
        executor = ClusterExecutor(address, client, handover, local, jobs)
        client.subscribe_topic(executor.topic, executor.hear)
        try:
            yield executor
        finally:
            for task in executor.tasks.values():
                task.ended.cancel()
            with contextlib.suppress(Exception):
                client.close(timeout=2)


def connect(address: str, *, trusted: bool) -> distributed.Client:
    """Connect to a Dask scheduler, and return the client.

    Raises:
        UserError: the connection is neither encrypted nor in a trusted network, or the scheduler does not answer or
            rejects this machine.
    """
    url = urlsplit(address)
    private = trusted or url.hostname in {"localhost", "127.0.0.1", "::1"}
    if not url.hostname or not (url.scheme == "tls" or (url.scheme == "tcp" and private)):
        msg = (
            f"--scheduler {address}: it must be tls://HOST:PORT, or tcp://HOST:PORT on this machine or with "
            "--trust-network, if you trust the network: anyone who reaches a scheduler can run code on its workers"
        )
        raise UserError(msg)
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the exception below names the problem
    try:
        certificate = distributed.security.Security().get_connection_args("client").get("ssl_context")
        if url.scheme == "tls" and certificate is None:
            msg = f"{address} needs certificates: name them in distributed.comm.tls of Dask's configuration"
            raise UserError(msg)
        return distributed.Client(address, timeout=CONNECTS_WITHIN, set_as_default=False)
    except (OSError, ValueError) as error:
        msg = f"there is no scheduler at {address}, or it rejects our certificates: {error}"
        raise UserError(msg) from None


def _done() -> Future[bool]:
    future = Future[bool]()
    future.set_result(True)
    return future


@dataclass
class Task:
    """A stage that was sent to the cluster."""

    output: StageOutput
    on_gpu: bool
    ended: Future[bool] = field(default_factory=Future)  # set at the stage's end: true if the stage succeeded
    announced: bool = False  # whether a worker has reported the start of the stage
    began: float = field(default_factory=time.monotonic)
    entry: dict[str, Any] | None = None  # the stage's section for dvc.lock, if the stage succeeded
    log: str = ""  # text that the stage printed


class ClusterExecutor:
    """Executor that gives stages to free workers.

    Some stages must run on this machine (see `stages_at_home`). If the remote already has the result of a stage, no
    worker runs the stage.
    """

    def __init__(
        self, address: str, client: distributed.Client, handover: Handover, local: LocalExecutor, jobs: int | None
    ) -> None:
        self.address, self.client, self.handover, self.local, self.jobs = address, client, handover, local, jobs
        self.console = local.console
        self.topic = f"aelab-{uuid.uuid4().hex}"
        self.tasks: dict[str, Task] = {}
        self.unknown = set[str]()  # stages whose results are not in the remote
        self.seen = time.monotonic()  # last time at which the scheduler had a worker

    def begin(self, names: list[str]) -> dict[Future[bool], str]:
        """Start as many of the stages `names` as the workers have room for.

        Returns:
            The names of the started stages, by future. The result of a future says whether the stage succeeded.

        Raises:
            UserError: the scheduler is gone, or no worker can run the stages.
        """
        begun = self.local.begin([name for name in names if name in self.handover.at_home])
        room, gpus, gpu_room = self._room()
        for name in (name for name in names if name not in self.handover.at_home):
            if name not in self.unknown and self.handover.restore(name):
                self.console.say("cached", name, "its results are in the remote")
                begun[_done()] = name
                continue
            self.unknown.add(name)
            on_gpu = bool(gpus) and self.handover.uses_gpu(name)
            if room > 0 and (gpu_room > 0 or not on_gpu):
                room, gpu_room = room - 1, gpu_room - on_gpu
                begun[self._submit(name, on_gpu=on_gpu)] = name
        return begun

    def end(self, name: str) -> None:
        """Record the result of a stage that has ended, and print whether the stage succeeded."""
        if name not in self.tasks:
            self.local.end(name)
            return
        task = self.tasks.pop(name)
        if task.entry:
            self.local.dvc.take(name, task.entry)
        log_file(name).write_text(task.log, encoding="utf-8")
        self.console.say("done" if task.entry else "failed", name, f"{time.monotonic() - task.began:.1f} s")

    def hear(self, event: tuple[float, dict[str, str]]) -> None:
        """Show a worker's message: the worker starts a stage, or the stage's command printed a line."""
        _, told = event
        name = told["stage"]
        task = self.tasks.get(name)
        if task is None:
            return  # the message is from a worker that Dask has declared dead
        if "line" in told:
            task.output.read(told["line"])
            return
        event_name, remark = ("again", " instead of a lost worker") if task.announced else ("start", "")
        task.announced, task.output = True, StageOutput(name)
        self.console.say(event_name, name, told["by"] + remark)

    def _submit(self, name: str, *, on_gpu: bool) -> Future[bool]:
        task = self.tasks[name] = Task(StageOutput(name), on_gpu)
        work = worker.work
        asked = self.client.submit(
            lambda request, topic: work(request, topic),  # noqa: PLW0108 - Dask sends a lambda's code, but other functions by name
            self.handover.request(name), self.topic, key=f"{name}-{uuid.uuid4().hex}",  # Dask keeps results by key
            resources={"GPU": 1.0} if on_gpu else {}, pure=False,
        )  # fmt: skip
        asked.add_done_callback(lambda asked: self._take(task, asked))
        return task.ended

    def _take(self, task: Task, asked: Any) -> None:
        """Store Dask's result of a task that has ended. Dask calls this method in one of its own threads."""
        if task.ended.cancelled():
            return
        if asked.status == "cancelled":
            task.ended.set_exception(self._gone())
            return
        problem = asked.exception()
        if problem is None:
            task.entry, task.log = asked.result()
        else:
            task.log = f"{type(problem).__name__}: {problem}\n"
            if isinstance(problem, distributed.scheduler.KilledWorker):
                task.log = f"all {problem.allowed_failures + 1} workers that ran it died: too little memory?\n"
        task.ended.set_result(task.entry is not None)

    def _room(self) -> tuple[int, int, int]:
        """Return how many more stages can start, how many workers have a GPU, and how many of these GPUs are free."""
        if self.client.status != "running":
            raise self._gone()
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if wrong := [str(each["name"]) for each in workers if each["nthreads"] != 1]:
            msg = f"a worker runs one stage at a time: start {', '.join(wrong)} with --nthreads 1"
            raise UserError(msg)
        if workers:
            self.seen = time.monotonic()
        elif time.monotonic() - self.seen > WORKERS_WITHIN:
            msg = (
                f"there has been no worker at {self.address} for {WORKERS_WITHIN:.0f} s: start workers with "
                f"`dask worker {self.address} --nthreads 1`; finished stages are kept"
            )
            raise UserError(msg)
        gpus = sum(bool(each["resources"].get("GPU")) for each in workers)
        # If there is no worker, one stage is submitted anyway: a cluster that grows on demand then starts a worker.
        room = min(max(1, len(workers)), self.jobs or len(workers) + 1) - len(self.tasks)
        return room, gpus, gpus - sum(task.on_gpu for task in self.tasks.values())

    def _gone(self) -> UserError:
        return UserError(f"the scheduler at {self.address} is gone; the next run continues, finished stages are kept")
