"""DVC's part of every stage, in this process: what `dvc repro` does before and after a stage's command, and `dvc.lock`.

A `dvc repro` for each stage would import DVC, read `dvc.yaml` and write the whole of `dvc.lock` each time; with 100
entries that took 10 CPU seconds a stage. `dvc.lock` is written for several stages at once. A stage that has finished
and does not stand there yet, because this process was killed, comes back from DVC's run cache.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO, TypeAlias

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.rwlock import rwlock
from dvc.stage.cache import RunCacheNotFoundError
from dvc.stage.loader import StageLoader
from dvc.stage.run import _enforce_cmd_list, _make_cmd, get_executable, prepare_kwargs
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

from aelab.core.disk import write_atomically
from aelab.core.errors import UserError
from pipeline.runner.locks import DVC_LOCK

Entry: TypeAlias = dict[str, Any]  # of a stage in dvc.lock

WRITING = 0.05  # share of the time that may go into writing dvc.lock, which is slow where it is long


class DvcStages:
    """The stages with the hashes that are known so far; the writer of `dvc.lock`.

    Raises:
        UserError: DVC cannot read `dvc.yaml` with these parameters.
    """

    def __init__(self) -> None:
        logging.getLogger("dvc").handlers.clear()  # what DVC says of a stage goes to the stage's log
        logging.getLogger("dvc.progress").setLevel(logging.CRITICAL)
        self.repo = Repo(_wait_for_lock=True)
        self.alone = threading.RLock()  # DVC is not made for several threads at once
        self.busy = ExitStack()  # what is held of DVC's list of busy files
        self.running: dict[str, Any] = {}
        self.pending: dict[str, Entry] = {}  # entries that dvc.lock does not have yet
        self.lock_text: str | None = None  # dvc.lock as this process has left it, and what it holds
        self.lock: Any = None
        self.writes_next = 0.0
        with self.turn():
            try:
                graph = self.repo.index.graph
            except DvcException as error:
                msg = f"{error}: {error.__cause__ or ''}"
                raise UserError(msg) from error
        self.stages: dict[str, Any] = {stage.addressing: stage for stage in graph}
        self.upstream = {name: {on.addressing for on in graph.successors(each)} for name, each in self.stages.items()}
        self.last = set(self.stages).difference(*self.upstream.values())  # on which no other stage depends

    @contextmanager
    def turn(self, log: TextIO | None = None) -> Iterator[None]:
        """Have DVC and its repository to oneself, as every command of DVC has; its warnings go to `log`."""
        logger, handler = logging.getLogger("dvc"), logging.StreamHandler(log) if log else logging.NullHandler()
        handler.setLevel(logging.WARNING)
        with self.alone:
            logger.addHandler(handler)
            try:
                with lock_repo(self.repo), self.repo.scm_context(quiet=True):
                    yield
            finally:
                logger.removeHandler(handler)

    def begin(self, name: str, log: TextIO) -> str | None:
        """Do what comes before a stage's command: look whether it has to run, and remove its outputs if so.

        Returns:
            What came of the stage; None if its command has to run, after which `finish` or `abandon` is due.
        """
        stage = self.stages[name]
        with self.turn(log):
            self._hold(name)
            outcome: str | None = "failed"
            try:
                outcome = self._prepare(stage)
                if outcome == "cached":
                    self._save(stage)
                if outcome is None and name in self.last:
                    self.write_lock()  # the report reads there what the stages before it have come to
            finally:
                if outcome is not None:
                    self._let_go(name)
        return outcome

    def _prepare(self, stage: Any) -> str | None:
        if not stage.changed():
            return "unchanged"
        if stage.frozen or not stage.cmd:  # DVC's own work alone, such as `dvc import`
            self.repo.reproduce(stage.addressing, single_item=True)
            return "done"
        stage.remove_outs()
        try:
            self.repo.stage_cache.restore(stage)
        except RunCacheNotFoundError:
            stage.save_deps()
            return None
        return "cached"

    def commands(self, name: str, environment: dict[str, str]) -> list[tuple[list[str] | str, dict[str, Any]]]:
        """The commands of a stage, one after the other, with the arguments that DVC gives to `Popen`."""
        stage, shell = self.stages[name], get_executable()
        arguments = prepare_kwargs(stage, run_env=environment)
        return [(_make_cmd(shell, command), arguments) for command in _enforce_cmd_list(stage.cmd)]

    def finish(self, name: str, log: TextIO) -> None:
        """Do what comes after a command that ended well: hash and keep what it has written."""
        with self.turn(log):
            try:
                self._save(self.stages[name])
            finally:
                self._let_go(name)

    def abandon(self, name: str, log: TextIO) -> None:
        """Give up a stage whose command did not end well."""
        with self.turn(log):
            self._let_go(name)

    def _save(self, stage: Any) -> None:
        kept = all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs)
        stage.save(run_cache=kept)
        stage.commit()
        self._note(stage.addressing, to_single_stage_lockfile(stage))

    def take(self, name: str, entry: Entry) -> None:
        """Take what a stage has come to elsewhere."""
        with self.alone:
            StageLoader.fill_from_lock(self.stages[name], entry)
            self._note(name, entry)

    def _note(self, name: str, entry: Entry) -> None:
        self.pending[name] = entry
        if time.monotonic() > self.writes_next:
            self.write_lock()

    def write_lock(self) -> None:
        """Bring dvc.lock up to date, in one step: whoever reads it meanwhile finds the old one whole."""
        with self.turn():
            if not self.pending:
                return
            began = time.monotonic()
            text = DVC_LOCK.read_text(encoding="utf-8") if DVC_LOCK.exists() else ""
            if text != self.lock_text:  # to parse a long one takes a second
                self.lock = parse_yaml_for_update(text, DVC_LOCK)
            self.lock.setdefault("schema", "2.0")
            self.lock.setdefault("stages", {}).update(self.pending)
            self.lock_text = dumps_yaml(self.lock)
            write_atomically(DVC_LOCK, self.lock_text.encode())
            self.repo.scm_context.track_file(str(DVC_LOCK))
            self.pending = {}
            ended = time.monotonic()
            self.writes_next = ended + (ended - began) / WRITING

    def _hold(self, name: str) -> None:
        self.running[name] = self.stages[name]
        try:
            self._list()
        except DvcException:  # another DVC is at work there
            self._let_go(name)
            raise

    def _let_go(self, name: str) -> None:
        del self.running[name]
        self._list()

    def _list(self) -> None:
        """List as busy what all running stages read and write. Whom this process lets in between has no turn."""
        self.busy.close()
        if not self.running:
            return
        reads = {dep.fs_path for stage in self.running.values() for dep in stage.deps}
        writes = {out.fs_path for stage in self.running.values() for out in stage.outs}
        hard = self.repo.config["core"].get("hardlink_lock", False)
        me = " ".join(sys.argv)  # as DVC's own functions call this process
        self.busy.enter_context(rwlock(self.repo.tmp_dir, self.repo.fs, me, sorted(reads), sorted(writes), hard))
