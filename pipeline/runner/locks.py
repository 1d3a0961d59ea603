"""Lets only one run use the repository at a time, finds damage in `dvc.lock`, and repairs DVC's list of busy files.

A run is one call of `pipeline.runner.repro`, for example by `make repro`.
"""

import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import psutil
from dvc.fs import localfs
from dvc.rwlock import SCHEMA as BUSY_LIST
from dvc.rwlock import _edit_rwlock
from dvc.schema import LOCKFILE_SCHEMA
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from voluptuous import Invalid, Required, Schema

from aelab.core.disk import conflict

DVC_LOCK, BUSY, TURN = Path("dvc.lock"), Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/pipeline.lock")
TORN = (
    "dvc.lock is damaged: a write was interrupted, or the file was edited",
    "git checkout dvc.lock, or rm dvc.lock; finished trainings are not repeated",
)
SETTLE = (
    "resolve params.yaml first, then git checkout --theirs dvc.lock (or rm dvc.lock), make repro, git add dvc.lock; "
    "finished trainings are not repeated"
)
SLACK = 2.0  # tolerance in seconds, when a process's start is compared with a file's time stamp
MD5 = r"[0-9a-f]{32}(\.dir)?"
LOCKFILE = Schema({Required(key) if key == "stages" else key: value for key, value in LOCKFILE_SCHEMA.items()})

Problem: TypeAlias = tuple[str, str]  # a problem, and its remedy
Note: TypeAlias = dict[str, Any]  # the number and the command of a process that reads or writes a file
BusyList: TypeAlias = dict[str, Any]  # by path: one note under "write", a list of notes under "read"


@contextmanager
def turn() -> Iterator[int]:
    """Wait until no other run uses the repository, then lock the repository for this run.

    Two runs at once would fail, since DVC lets only one process at a time write a file. The lock ends when no process
    has the lock file open any more. The commands of stages inherit the open file. So after a runner is killed, the next
    run waits for the commands that are still running.

    Yields:
        The descriptor of the open lock file, for the commands to inherit.
    """
    TURN.parent.mkdir(parents=True, exist_ok=True)
    with TURN.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another `make repro` is running here: waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def damage() -> Problem | None:
    """Return the problem and its remedy if `dvc.lock` is damaged or has a merge conflict; None otherwise."""
    try:
        text = DVC_LOCK.read_text(encoding="utf-8")
        if line := conflict(text):
            return f"dvc.lock has an unresolved merge conflict in line {line}", SETTLE
        content = LOCKFILE(YAML(typ="safe", pure=True).load(text))
    except FileNotFoundError:
        return None
    except (YAMLError, ValueError, Invalid, LookupError, RecursionError):
        return TORN
    outs = [out for stage in content["stages"].values() for out in stage.get("outs", ())]
    whole = text.endswith("\n") and all(re.fullmatch(MD5, out["md5"]) for out in outs if "md5" in out)
    return None if whole else TORN


def busy_list() -> BusyList | None:
    """Return DVC's list of the files that DVC commands read or write now; None if the list is damaged."""
    try:
        listed: BusyList = BUSY_LIST(json.loads(BUSY.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return BUSY_LIST({})
    except (ValueError, Invalid, RecursionError):
        return None
    return listed


def at_work() -> list[int]:
    """Return the process numbers of the DVC commands that are writing outputs in this repository."""
    return sorted({each["pid"] for each in (busy_list() or {}).get("write", {}).values() if _alive(each)})


def _alive(noted: Note) -> bool:
    """Whether the DVC process that wrote a note still runs.

    The process number alone does not suffice, because a later process may have got the same number.
    """
    try:
        process = psutil.Process(noted["pid"])
        words, began = process.cmdline(), process.create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's process, which counts as alive
        return True
    if process.pid == os.getpid() or began > BUSY.stat().st_mtime + SLACK:
        return False
    ours = (Path(word).stem == "dvc" or word.startswith("pipeline.") for word in words)
    return any(ours) or noted["cmd"] in " ".join(words)  # DVC notes a module's file, not `-m` and its name


def mend() -> None:
    """Wait for running DVC commands, then repair DVC's list of busy files. The caller must hold the lock of `turn`.

    If `dvc.lock` is damaged or has a merge conflict, exit with a message, because the user must choose the remedy.
    """
    announced = False
    while running := at_work():
        if not announced:
            print(f"waiting for another DVC command that runs here, process {str(running).strip('[]')}", flush=True)
        announced = True
        time.sleep(0.2)
    if problem := damage():
        sys.exit(f"\n{problem[0]}; remedy: {problem[1]}\n")
    if (listed := busy_list()) is None:
        BUSY.unlink(missing_ok=True)
        print(f"removed {BUSY}, which a killed DVC command had left unfinished", flush=True)
    elif not all(map(_alive, _notes(listed))):
        # Take DVC's lock, because another command may add a note at any moment.
        with _edit_rwlock(str(BUSY.parent), localfs, hardlink=False) as held:
            held["write"] = {path: each for path, each in held["write"].items() if _alive(each)}
            held["read"] = {path: alive for path, each in held["read"].items() if (alive := [*filter(_alive, each)])}
        print(f"removed the entries of a killed DVC command from {BUSY}", flush=True)


def _notes(listed: BusyList) -> list[Note]:
    return [*listed["write"].values(), *(note for notes in listed["read"].values() for note in notes)]
