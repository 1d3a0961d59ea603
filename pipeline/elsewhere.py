"""Stages in a clone of their own: what they read comes from DVC's remote, and what they have written goes there.

The clone belongs to a worker (see `worker`), which says on standard input what to do, stage after stage: Python's
imports and the connection to the remote take longer than all else. A result that is known, from DVC's run cache, moves
nothing at all.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from dvc.dvcfile import ProjectFile
from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.stage.cache import _get_cache_hash
from dvc.stage.loader import StageLoader
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import dump_yaml, parse_yaml

from pipeline.repro import following
from pipeline.worker import ANSWER

Entry = dict[str, Any]  # of a stage in dvc.lock
T = TypeVar("T")

WAITS = (1, 2, 4, 8, 16)  # seconds between attempts to reach the remote


class Order(TypedDict):
    """What a worker is asked to do; nothing in it is secret."""

    stage: str
    inputs: dict[str, list[str]]  # stages that it depends on → those of their outputs that it reads
    lock: dict[str, Entry]  # the entries of these stages in dvc.lock, and its own of before
    remote: dict[str, Any]  # as in DVC's configuration
    code: str  # the commit whose files the stage runs on
    head: str  # the commit that provenance names
    environment: dict[str, str]


class Answer(TypedDict):
    """What came of it."""

    how: str  # unchanged, cached, done, failed
    entry: Entry | None  # in dvc.lock, if it did not fail


def main() -> None:
    """Do what each line of standard input says, an `Order`; a line that begins with `ANSWER` ends its answer."""
    for line in sys.stdin:
        order: Order = json.loads(line)
        lock = {"schema": "2.0", "stages": order["lock"]}
        try:
            dump_yaml("dvc.lock", lock)
            repo, project = _opened()
            with lock_repo(repo):
                answer = _answer(repo, StageLoader(project, project.contents, lock), order)
        except Exception as error:  # noqa: BLE001 - the one who asked is to know, whatever it is
            kind = "ERROR" if isinstance(error, DvcException) else type(error).__name__
            print(f"{kind}: {error}" + (f": {error.__cause__}" if error.__cause__ else ""), flush=True)
            answer = Answer(how="failed", entry=None)
        print(f"{ANSWER}{json.dumps(answer)}", flush=True)


@cache
def _opened() -> tuple[Repo, ProjectFile]:
    """The clone and its dvc.yaml, which stay as they are for as long as this process lives."""
    repo = Repo(_wait_for_lock=True)
    return repo, ProjectFile(repo, "dvc.yaml")


def _answer(repo: Repo, stages: Mapping[str, Any], order: Order) -> Answer:
    _patiently(repo, lambda: _remote(repo).fs.fs.invalidate_cache())  # noqa: PLW0108 - connects; others write there
    known = _known(repo, stages, order)
    if known is not None:
        return known
    pull(repo, stages, order["inputs"])
    stage = stages[order["stage"]]
    followed = [stage.name] if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http") else []
    # What `dvc repro --single-item --force` does: it is known that DVC's cache has nothing.
    with following(followed), repo.scm_context(quiet=True):
        stage.reproduce(force=True)
    push(repo, stage)
    return Answer(how="done", entry=entry(stage))


def pull(repo: Repo, stages: Mapping[str, Any], outputs: Mapping[str, Iterable[str]]) -> None:
    """Fetch `outputs` of stages from the remote as `dvc.lock` has them, and put them in their places.

    Raises:
        DvcException: the remote does not answer, or lacks them.
    """
    for name, wanted in outputs.items():
        for out in stages[name].outs:
            if out.def_path not in wanted:
                continue
            if out.changed_cache():
                for objects in out.get_used_objs().values():
                    _move(repo, lambda objects=objects: repo.cloud.pull(objects, odb=_remote(repo).odb))  # type: ignore[misc]
            out.checkout(force=True)


def _known(repo: Repo, stages: Mapping[str, Any], order: Order) -> Answer | None:
    """What the stage has given before on the same inputs: as its entry of before says, or DVC's run cache."""
    stage = stages[order["stage"]]
    made = {out.def_path: out for on in order["inputs"] for out in stages[on].outs}
    if not all(dep.def_path in made or dep.exists for dep in stage.deps):
        pull(repo, stages, order["inputs"])  # it reads a folder of several outputs, or a file in one
    for dep in stage.deps:
        if dep.def_path in made:
            dep.hash_info, dep.meta = made[dep.def_path].hash_info, made[dep.def_path].meta
        else:
            dep.save()
    key = _key(entry(stage))
    before = order["lock"].get(order["stage"])
    if before and _key(before) == key and _has(repo, before):
        return Answer(how="unchanged", entry=before)
    fs, folder = _runs(repo, key)
    for path in _patiently(repo, lambda: sorted(fs.find(folder)) if fs.exists(folder) else []):
        found = parse_yaml(_patiently(repo, lambda path=path: fs.cat_file(path)), path)  # type: ignore[misc]
        if _has(repo, found):
            return Answer(how="cached", entry=found)
    return None


def push(repo: Repo, stage: Any) -> None:
    """Hand over what a stage has written, then that it has: nothing in the run cache may name what is not there."""
    offer(repo, stage)
    key = _key(entry(stage))
    fs, folder = _runs(repo, key)
    for path in Path(repo.stage_cache.cache_dir, key[:2], key).glob("*"):
        _patiently(repo, lambda path=path: fs.put_file(str(path), fs.join(folder, path.name)))  # type: ignore[misc]


def offer(repo: Repo, stage: Any) -> None:
    """Have the remote hold what a stage has written, as far as it is here."""
    for out in stage.outs:
        if out.use_cache and out.hash_info and not out.changed_cache():
            for objects in out.get_used_objs().values():
                _move(repo, lambda objects=objects: repo.cloud.push(objects, odb=_remote(repo).odb))  # type: ignore[misc]


@lru_cache(1)
def _remote(repo: Repo) -> Any:
    """DVC's remote: made anew, it connects anew, as it does after every failure."""
    return repo.cloud.get_remote()


def entry(stage: Any) -> Entry:
    """The stage's entry in dvc.lock, made of plain dictionaries."""
    plain: Entry = json.loads(json.dumps(to_single_stage_lockfile(stage)))
    return plain


def _key(run: Entry) -> str:
    """What DVC's run cache knows a run by: its command, what it reads, the names of what it writes."""
    return str(_get_cache_hash(dict(run), key=True))


def _runs(repo: Repo, key: str) -> tuple[Any, str]:
    """Where the remote has the runs with this key: its file system, a folder there."""
    odb = _remote(repo).legacy_odb
    return odb.fs, odb.fs.join(odb.path, "runs", key[:2], key)


def _has(repo: Repo, run: Entry) -> bool:
    """Whether the remote has the outputs of a run. It gets the list of a folder after the files in it."""
    return all(_patiently(repo, lambda oid=out["md5"]: _remote(repo).odb.exists(oid)) for out in run["outs"])  # type: ignore[misc]


def _move(repo: Repo, move: Callable[[], Any]) -> None:
    def all_of_it() -> None:
        if failed := move().failed:
            msg = f"{len(failed)} files could not be moved"
            raise ConnectionError(msg)

    _patiently(repo, all_of_it)


def _patiently(repo: Repo, ask: Callable[[], T]) -> T:
    """What the remote answers; one that is away for a moment is asked again.

    Raises:
        DvcException: it does not answer, or says no.
    """
    for wait in (*WAITS, None):
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - every file system has its own
            _remote.cache_clear()
            if wait is None or isinstance(error, PermissionError | FileNotFoundError):
                name = repo.config["core"]["remote"]
                msg = f"the remote {repo.config['remote'][name]['url']} does not give or take what it should: {error}"
                raise DvcException(msg) from None
            print(f"the remote does not answer, it is tried again: {error}", flush=True)
            time.sleep(wait)
    raise AssertionError


if __name__ == "__main__":
    main()
