"""Stages on the workers of a Dask cluster: the executor that `repro` uses when it is given a scheduler.

The plan and `dvc.lock` stay here, with one writer. A worker is told the name of a stage and the hashes of what it
reads; code, data and results travel through DVC's remote, and the stage's entry of `dvc.lock` comes back. Dask carries
the message, and gives a stage to another worker when one dies: it may run more than once, its result is taken once.
"""

import contextlib
import ipaddress
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from dvc.dvcfile import ProjectFile
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import modify_yaml

from autoencoders.errors import UserError
from pipeline import elsewhere, paths, worker
from pipeline.repro import Clock, Local, Voice

try:
    import cloudpickle
    import distributed
except ImportError:
    distributed = None  # type: ignore[assignment]
else:
    cloudpickle.register_pickle_by_value(worker)  # no worker has to be started where it can be found

CONNECTS_WITHIN = 10.0  # seconds
WORKERS_WITHIN = 60.0  # seconds in which there is to be one, at first and whenever the last has gone
SECRET = ("secret", "password", "token", "key", "connection", "credential")  # in the names of what stays here
WRITING = 0.05  # share of the time that may go into writing dvc.lock, which is slow where it is long


class Cluster:
    """An executor that hands stages to the workers of the Dask scheduler at an address."""

    def __init__(
        self,
        scheduler: str,
        stages: Mapping[str, Any],
        upstream: Mapping[str, set[str]],
        waiting: set[str],
        local: Local,
        jobs: int | None,
        clock: Clock,
        *,
        device: str,
        trusted: bool,
    ) -> None:
        if distributed is None:
            msg = "stages on a cluster need the extra `cluster`: install distributed, as requirements.lock has it"
            raise UserError(msg)
        _forbid_strangers(scheduler, trusted=trusted)
        _have_certificate(scheduler)
        self.address, self.stages, self.upstream, self.local, self.clock = scheduler, stages, upstream, local, clock
        self.waiting = frozenset(waiting)
        self.jobs, self.device, self.topic = jobs, device, f"autoencoders-{uuid.uuid4().hex}"
        self.gpus = 0  # workers that have one
        self.running: dict[str, Future[bool]] = {}  # stages on workers
        self.answers: dict[str, dict[str, Any]] = {}
        self.voices: dict[str, Voice] = {}
        self.began: dict[str, float] = {}
        self.pending: dict[str, elsewhere.Entry] = {}  # entries that dvc.lock does not have yet
        self.wrote, self.writing = time.monotonic(), 0.0
        self.seen = time.monotonic()  # a worker
        self.lost = False
        self.here = _at_home(stages)
        self.lock: dict[str, elsewhere.Entry] = {}  # what has come of stages in this run
        local.around = self._around

    def __enter__(self) -> Self:
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is said below
        try:
            self.client = distributed.Client(self.address, timeout=CONNECTS_WITHIN, set_as_default=False)
        except (OSError, ValueError) as error:
            msg = f"there is no scheduler at {self.address}: {error}"
            raise UserError(msg) from None
        self.client.subscribe_topic(self.topic, self._hear)
        with Repo(_wait_for_lock=True) as repo, repo.lock:
            self.remote = _remote(repo.config)
            for name in sorted(set().union(*(self.upstream[name] for name in self.waiting)) - self.waiting):
                elsewhere.offer(repo, self.stages[name])  # it may have run here, and workers are to read it
        self.code, self.head = _publish(self.remote)
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        for future in self.running.values():
            future.cancel()
        with contextlib.suppress(Exception):
            self.client.close(timeout=2)

    def begin(self, names: list[str], running: int) -> dict[Future[bool], str]:
        """Hand stages to workers that are free; what cannot travel runs here.

        Raises:
            UserError: the scheduler is gone, or there is no worker that can run them.
        """
        here = [name for name in names if name in self.here]
        begun = self.local.begin(here, running - len(self.running))
        room = self._room()
        for name in (name for name in names if name not in self.here):
            needs = self._needs(name)
            kind = "GPU" if needs else "any"
            if room["any"] < 1 or room[kind] < 1:
                continue
            for each in {"any", kind}:
                room[each] -= 1
            begun[self._submit(name, needs)] = name
        return begun

    def ended(self, name: str) -> None:
        """Take what a worker has answered."""
        if self.running.pop(name, None) is None:
            self.local.ended(name)
            return
        answer = self.answers.pop(name)
        paths.LOGS.mkdir(parents=True, exist_ok=True)
        (paths.LOGS / f"{name}.log").write_text(answer["log"], encoding="utf-8")
        if answer["entry"]:
            self.lock[name] = self.pending[name] = answer["entry"]
        if time.monotonic() - self.wrote > self.writing / WRITING:
            self._write()
        self.clock.say(answer["how"], name, f"{time.monotonic() - self.began[name]:.1f} s")

    def _submit(self, name: str, needs: dict[str, float]) -> Future[bool]:
        inputs = {on: paths for on in sorted(self.upstream[name]) if (paths := self._read(name, on))}
        order = elsewhere.Order(
            stage=name,
            inputs=inputs,
            lock={each: entry for each in (*inputs, name) if (entry := self._known(each))},
            remote=self.remote,
            code=self.code,
            head=self.head,
            environment={
                key: uri for key in ("MLFLOW_TRACKING_URI",) if (uri := os.environ.get(key, "")).startswith("http")
            },
        )
        self.voices[name], self.began[name] = Voice(name), time.monotonic()
        key = f"{name}-{uuid.uuid4().hex}"  # Dask remembers results by it
        work = worker.work
        asked = self.client.submit(
            lambda order, topic: work(order, topic),  # noqa: PLW0108 - Dask sends the text of a lambda, a name of others
            order, self.topic, key=key, resources=needs, pure=False,
        )  # fmt: skip
        promise = self.running[name] = Future[bool]()
        asked.add_done_callback(lambda asked: self._answered(name, asked, promise))
        return promise

    def _known(self, name: str) -> elsewhere.Entry | None:
        """The stage's entry of dvc.lock: that of this run, or as the plan has found it."""
        if name not in self.lock and all(out.hash_info for out in self.stages[name].outs):
            self.lock[name] = elsewhere.entry(self.stages[name])
        return self.lock.get(name)

    def _answered(self, name: str, asked: Any, promise: Future[bool]) -> None:
        if promise.cancelled():
            return
        if asked.status == "cancelled":
            self.lost = True
            promise.set_exception(self._gone())
            return
        problem = asked.exception()
        if problem is None:
            self.answers[name] = asked.result()
        else:
            what = f"{type(problem).__name__}: {problem}"
            if isinstance(problem, distributed.scheduler.KilledWorker):
                what = f"every worker that ran it died, {problem.allowed_failures + 1} in all: too little memory?"
            self.answers[name] = {"how": "failed", "entry": None, "log": f"{what}\n"}
        promise.set_result(self.answers[name]["how"] != "failed")

    def _gone(self) -> UserError:
        return UserError(f"the scheduler at {self.address} is gone; what has finished is kept, the next run goes on")

    def _room(self) -> dict[str, int]:
        """How many more stages the workers can take: of any kind, and of those that want a GPU."""
        if self.lost or self.client.status != "running":
            raise self._gone()
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if wrong := [str(each["name"]) for each in workers if each["nthreads"] != 1]:
            msg = f"a worker runs one stage at a time: start {', '.join(wrong)} with --nthreads 1"
            raise UserError(msg)
        if workers:
            self.seen = time.monotonic()
        elif time.monotonic() - self.seen > WORKERS_WITHIN:
            msg = (
                f"there has been no worker at {self.address} for {WORKERS_WITHIN:.0f} s: start some with "
                f"`python -m pipeline.worker {self.address}`; what has finished is kept"
            )
            raise UserError(msg)
        self.gpus = sum(bool(each["resources"].get("GPU")) for each in workers)
        if workers and not self.gpus and self.device == "cuda":
            msg = (
                f"training.device is cuda, and no worker at {self.address} has a GPU: start one with --resources GPU=1"
            )
            raise UserError(msg)
        on_gpu = sum(bool(self._needs(name)) for name in self.running)
        # Where there is none yet, one stage waits for it: a cluster that grows on demand begins to.
        anyone = max(1, len(workers)) - len(self.running)
        return {"any": anyone if self.jobs is None else min(anyone, self.jobs - len(self.running)),
                "GPU": self.gpus - on_gpu}  # fmt: skip

    def _needs(self, name: str) -> dict[str, float]:
        """A GPU for a stage that uses one where it finds one, if some worker has it."""
        used = {key for dep in self.stages[name].deps for key in getattr(dep, "params", ())}
        return {"GPU": 1.0} if self.device != "cpu" and self.gpus and used & {"training", "training.device"} else {}

    def _read(self, name: str, on: str) -> list[str]:
        """The outputs of the stage `on` that the stage `name` reads."""
        deps = [Path(dep.fs_path) for dep in self.stages[name].deps]
        return [
            out.def_path
            for out in self.stages[on].outs
            if any(dep.is_relative_to(out.fs_path) or Path(out.fs_path).is_relative_to(dep) for dep in deps)
        ]

    def _hear(self, event: tuple[float, dict[str, str]]) -> None:
        """What a worker tells of its stage."""
        _, told = event
        name = told["stage"]
        if name not in self.running:
            return  # of one that was taken for dead
        if "line" in told:
            self.voices[name].hear(told["line"])
        else:
            again = self.voices[name].told
            self.voices[name] = Voice(name, told=True)
            self.clock.say("again" if again else "start", name, told["who"] + " instead of a lost worker" * again)

    def _write(self) -> None:
        """Bring dvc.lock up to date; what runs here writes it, too."""
        if not self.pending:
            return
        began = time.monotonic()
        pending, self.pending = self.pending, {}
        with Repo(_wait_for_lock=True) as repo, repo.lock, modify_yaml("dvc.lock") as content:
            content["schema"] = "2.0"
            content.setdefault("stages", {}).update(pending)
        self.wrote = time.monotonic()
        self.writing = self.wrote - began

    @contextmanager
    def _around(self, name: str) -> Iterator[None]:
        """Before a stage runs here, fetch what it reads; afterwards, others are to have what it has written."""
        self._write()
        inputs = {on: read for on in self.upstream[name] if (read := self._read(name, on))}
        try:
            with Repo(_wait_for_lock=True) as repo, repo.lock:
                elsewhere.pull(repo, ProjectFile(repo, "dvc.yaml").stages, inputs)
        except DvcException as error:
            msg = f"{name} cannot have what it reads: {error}"
            raise UserError(msg) from None
        yield
        with Repo(_wait_for_lock=True) as repo, repo.lock:
            stage = repo.stage.load_one(name=name)
            self.lock[name] = elsewhere.entry(stage)
            elsewhere.offer(repo, stage)


def _forbid_strangers(scheduler: str, *, trusted: bool) -> None:
    """Refuse an address that anyone on the way can listen to: who reaches a scheduler can run code on its workers."""
    url = urlsplit(scheduler)
    if url.scheme not in {"tcp", "tls"} or not url.hostname:
        msg = f"--scheduler {scheduler} is no address of a scheduler: tcp://HOST:PORT or tls://HOST:PORT"
        raise UserError(msg)
    try:
        local = ipaddress.ip_address(url.hostname).is_loopback
    except ValueError:
        local = url.hostname == "localhost"
    if url.scheme == "tcp" and not local and not trusted:
        msg = (
            f"{scheduler} is neither on this machine nor encrypted, and who reaches a scheduler can run code on its "
            "workers: use tls://, or say with --trust-network that the network is your own"
        )
        raise UserError(msg)


def _have_certificate(scheduler: str) -> None:
    """See that there is what an encrypted scheduler asks for."""
    try:
        known = distributed.security.Security().get_connection_args("client").get("ssl_context")
    except (OSError, ValueError) as error:
        msg = f"the certificates that Dask's configuration names cannot be used: {error}"
        raise UserError(msg) from None
    if urlsplit(scheduler).scheme == "tls" and known is None:
        msg = (
            f"{scheduler} asks for a certificate: have Dask's configuration name ca-file, client.cert and client.key "
            "under distributed.comm.tls"
        )
        raise UserError(msg)


def _at_home(stages: Mapping[str, Any]) -> set[str]:
    """The stages that run here: a worker cannot have all that they read, or hand over all that they write."""
    made = {out.def_path for stage in stages.values() for out in stage.outs}
    own = {name: {dep.def_path for dep in stage.deps} - made for name, stage in stages.items()}
    read = sorted(set().union(*own.values()))
    list_ignored = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--", *read, ":!*.pyc")
    ignored = [Path(name) for name in _git(*list_ignored).split("\0") if name] if read else []
    stay = {path for path in read if any(file.is_relative_to(os.path.normpath(path)) for file in ignored)}
    return {name for name, stage in stages.items()
            if own[name] & stay or not all(out.use_cache for out in stage.outs)}  # fmt: skip


def _remote(config: Mapping[str, Any]) -> dict[str, Any]:
    """How the default remote is configured, without what is secret."""
    name = config["core"].get("remote")
    if name is None:
        msg = "a cluster needs a place that all its workers reach: `dvc remote add --default NAME s3://BUCKET/FOLDER`"
        raise UserError(msg)
    if config["remote"][name].get("version_aware") or config["remote"][name].get("worktree"):
        msg = f"the remote {name} keeps versions, which DVC's run cache is not made for: a cluster needs another one"
        raise UserError(msg)
    return {key: value for key, value in config["remote"][name].items() if not any(word in key for word in SECRET)}


def _publish(remote: dict[str, Any]) -> tuple[str, str]:
    """Put what is checked out here, changed files included, where workers find it; the commit that holds it, and the
    one that it is based on.
    """
    head = _git("rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        shutil.copy(_git("rev-parse", "--git-path", "index"), index)
        _git("add", "--all", GIT_INDEX_FILE=str(index))
        tree = _git("write-tree", GIT_INDEX_FILE=str(index))
        code = head
        if tree != _git("rev-parse", "HEAD^{tree}"):
            date = _git("log", "-1", "--format=%cI")  # the same files are the same commit
            me = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
                  for what, value in {"NAME": "cluster", "EMAIL": "cluster", "DATE": date}.items()}  # fmt: skip
            code = _git("commit-tree", tree, "-p", head, "-m", "What is checked out", **me)
        files, path = worker.storage(remote)
        target = files.join(path, "code", f"{code}.bundle")
        try:
            if not files.exists(target):
                bundle = Path(folder) / "code.bundle"
                _git("update-ref", worker.CODE, code)
                _git("bundle", "create", "--quiet", str(bundle), worker.CODE)
                _git("update-ref", "-d", worker.CODE)
                files.put_file(str(bundle), target)
        except Exception as error:  # noqa: BLE001 - every file system has its own
            msg = f"the remote {remote['url']} does not take what workers need: {error}"
            raise UserError(msg) from None
    return code, head


def _git(*arguments: str, **environment: str) -> str:
    try:
        return worker.git(*arguments, folder=None, **environment)
    except RuntimeError as error:
        raise UserError(str(error)) from None
