"""Does DVC's work before and after each stage's command, and writes `dvc.lock`, all in this process.

Separate `dvc repro` commands would import DVC, read `dvc.yaml` and write all of `dvc.lock` for each stage. With 100
entries, one such command took 10 CPU seconds. Here, one write of `dvc.lock` covers several stages. If this process is
killed before the write, DVC's run cache restores the finished stages.
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

Entry: TypeAlias = dict[str, Any]  # a stage's entry in dvc.lock

WRITING = 0.05  # largest share of the run time spent on writing dvc.lock; a write is slow if the file is long


class DvcStages:
    """The stages with their hashes. Only this object writes `dvc.lock`.

    Raises:
        UserError: DVC cannot read `dvc.yaml` with the values in `params.yaml`.
    """

    def __init__(self) -> None:
        logging.getLogger("dvc").handlers.clear()  # DVC's messages go to the stage's log
        logging.getLogger("dvc.progress").setLevel(logging.CRITICAL)
        self.repo = Repo(_wait_for_lock=True)
        self.alone = threading.RLock()  # DVC is not thread-safe
        self.busy = ExitStack()  # this process's entries in DVC's list of busy files
        self.running: dict[str, Any] = {}
        self.pending: dict[str, Entry] = {}  # entries that are not in dvc.lock yet
        self.lock_text: str | None = None  # text of dvc.lock after this process's last write
        self.lock: Any = None  # `lock_text`, parsed
        self.writes_next = 0.0
        with self.turn():
            try:
                graph = self.repo.index.graph
            except DvcException as error:
                msg = f"{error}: {error.__cause__ or ''}"
                raise UserError(msg) from error
        self.stages: dict[str, Any] = {stage.addressing: stage for stage in graph}
        self.upstream = {name: {on.addressing for on in graph.successors(each)} for name, each in self.stages.items()}
        self.last = set(self.stages).difference(*self.upstream.values())  # stages on which no other stage depends

    @contextmanager
    def turn(self, log: TextIO | None = None) -> Iterator[None]:
        """Hold DVC's lock on the repository, as every command of DVC does; DVC's warnings go to `log`."""
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
        """Prepare a stage: decide whether its command has to run, and if so remove its outputs.

        Returns:
            "unchanged"; "cached"; or "done", for a stage that is frozen or has no command. None if the command has to
            run: the caller then runs it, and calls `finish` or `abandon`.
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
                    self.write_lock()  # the report reads the results of earlier stages from dvc.lock
            finally:
                if outcome is not None:
                    self._let_go(name)
        return outcome

    def _prepare(self, stage: Any) -> str | None:
        if not stage.changed():
            return "unchanged"
        if stage.frozen or not stage.cmd:  # a stage of `dvc import` has no command
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
        """Return the commands of a stage in order, with the arguments that DVC gives to `Popen`."""
        stage, shell = self.stages[name], get_executable()
        arguments = prepare_kwargs(stage, run_env=environment)
        return [(_make_cmd(shell, command), arguments) for command in _enforce_cmd_list(stage.cmd)]

    def finish(self, name: str, log: TextIO) -> None:
        """Hash and cache the outputs after a command that succeeded."""
        with self.turn(log):
            try:
                self._save(self.stages[name])
            finally:
                self._let_go(name)

    def abandon(self, name: str, log: TextIO) -> None:
        """Release the files of a stage whose command failed."""
        with self.turn(log):
            self._let_go(name)

    def _save(self, stage: Any) -> None:
        kept = all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs)
        stage.save(run_cache=kept)
        stage.commit()
        self._note(stage.addressing, to_single_stage_lockfile(stage))

    def take(self, name: str, entry: Entry) -> None:
        """Record a stage's result from another machine."""
        with self.alone:
            StageLoader.fill_from_lock(self.stages[name], entry)
            self._note(name, entry)

    def _note(self, name: str, entry: Entry) -> None:
        """Keep a stage's new entry for dvc.lock, and write the file if the last write is long enough ago."""
        self.pending[name] = entry
        if time.monotonic() > self.writes_next:
            self.write_lock()

    def write_lock(self) -> None:
        """Write all new entries to dvc.lock, atomically: a reader finds the old file or the new one."""
        with self.turn():
            if not self.pending:
                return
            began = time.monotonic()
            text = DVC_LOCK.read_text(encoding="utf-8") if DVC_LOCK.exists() else ""
            if text != self.lock_text:  # parsing a long file takes a second
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
        except DvcException:  # another DVC process uses the files
            self._let_go(name)
            raise

    def _let_go(self, name: str) -> None:
        del self.running[name]
        self._list()

    def _list(self) -> None:
        """List the files of all running stages as busy. The caller holds DVC's lock (see `turn`)."""
        self.busy.close()
        if not self.running:
            return
        reads = {dep.fs_path for stage in self.running.values() for dep in stage.deps}
        writes = {out.fs_path for stage in self.running.values() for out in stage.outs}
        hard = self.repo.config["core"].get("hardlink_lock", False)
        me = " ".join(sys.argv)  # DVC's functions identify a process by its command
        self.busy.enter_context(rwlock(self.repo.tmp_dir, self.repo.fs, me, sorted(reads), sorted(writes), hard))
