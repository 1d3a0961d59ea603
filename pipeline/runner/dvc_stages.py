"""Does DVC's work before and after the command of each stage, and writes `dvc.lock`, all in the runner's process.

The runner is `pipeline.runner.repro`. A separate `dvc repro` for each stage would import DVC, read `dvc.yaml` and write
all of `dvc.lock` each time. With 100 models in params.yaml, this took 10 CPU seconds per stage. Here, one write of
`dvc.lock` covers several stages. If the runner is killed before the write, the next run restores the results of
finished stages from DVC's run cache.
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

Entry: TypeAlias = dict[str, Any]  # a stage's entry in dvc.lock: the hashes of its inputs and outputs

WRITING = 0.05  # largest fraction of a run's time for writing dvc.lock, because writing a long file is slow


class DvcStages:
    """The stages of `dvc.yaml`, with hashes of inputs and outputs. In the runner, only this object writes `dvc.lock`.

    Raises:
        UserError: DVC cannot read `dvc.yaml` with the values in `params.yaml`.
    """

    def __init__(self) -> None:
        logging.getLogger("dvc").handlers.clear()  # DVC's messages go to log files: see `turn`
        logging.getLogger("dvc.progress").setLevel(logging.CRITICAL)
        self.repo = Repo(_wait_for_lock=True)
        self.alone = threading.RLock()  # DVC is not thread-safe
        self.busy = ExitStack()  # keeps the files of running stages in DVC's list of busy files
        self.running: dict[str, Any] = {}
        self.pending: dict[str, Entry] = {}  # new entries that are not in dvc.lock yet
        self.lock_text: str | None = None  # text of dvc.lock after the last write by this process
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
        """Hold DVC's lock on the repository inside a `with` block, as DVC's commands do. DVC's warnings go to `log`."""
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
        """Prepare a stage: decide whether its command must run. If so, remove the stage's old outputs.

        Returns:
            None if the command must run. The caller then runs the command, and calls `finish` after a success or
            `abandon` after a failure. Otherwise, the outcome of the stage: "unchanged"; "cached" if DVC's run cache
            had the outputs; "done" if DVC alone updated the stage, which is frozen or has no command.
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
                    self.write_lock()  # the last stage, `report`, reads dvc.lock
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
        """Return the commands of a stage in order, each with the keyword arguments that DVC would pass to `Popen`."""
        stage, shell = self.stages[name], get_executable()
        arguments = prepare_kwargs(stage, run_env=environment)
        return [(_make_cmd(shell, command), arguments) for command in _enforce_cmd_list(stage.cmd)]

    def finish(self, name: str, log: TextIO) -> None:
        """Hash and cache the outputs of a stage whose command has succeeded."""
        with self.turn(log):
            try:
                self._save(self.stages[name])
            finally:
                self._let_go(name)

    def abandon(self, name: str, log: TextIO) -> None:
        """Remove a failed stage's files from DVC's list of busy files."""
        with self.turn(log):
            self._let_go(name)

    def _save(self, stage: Any) -> None:
        kept = all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs)
        stage.save(run_cache=kept)
        stage.commit()
        self._note(stage.addressing, to_single_stage_lockfile(stage))

    def take(self, name: str, entry: Entry) -> None:
        """Record the new `entry` of a stage whose result another machine has computed."""
        with self.alone:
            StageLoader.fill_from_lock(self.stages[name], entry)
            self._note(name, entry)

    def _note(self, name: str, entry: Entry) -> None:
        """Keep a stage's new entry for dvc.lock. Write dvc.lock now if the last write is long enough ago."""
        self.pending[name] = entry
        if time.monotonic() > self.writes_next:
            self.write_lock()

    def write_lock(self) -> None:
        """Write all new entries to dvc.lock atomically, so that other processes never read a half-written file."""
        with self.turn():
            if not self.pending:
                return
            began = time.monotonic()
            text = DVC_LOCK.read_text(encoding="utf-8") if DVC_LOCK.exists() else ""
            if text != self.lock_text:  # only after a write by another process, since parsing is slow
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
        """Write the files of all running stages to DVC's list of busy files. The caller must hold `turn`'s lock."""
        self.busy.close()
        if not self.running:
            return
        reads = {dep.fs_path for stage in self.running.values() for dep in stage.deps}
        writes = {out.fs_path for stage in self.running.values() for out in stage.outs}
        hard = self.repo.config["core"].get("hardlink_lock", False)
        me = " ".join(sys.argv)  # for DVC's list: the command line of this process
        self.busy.enter_context(rwlock(self.repo.tmp_dir, self.repo.fs, me, sorted(reads), sorted(writes), hard))
