"""Lets runs take turns, and repairs the files that DVC leaves damaged if it is killed during a write."""

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
SLACK = 2.0  # seconds by which the clocks of processes and files may differ
MD5 = r"[0-9a-f]{32}(\.dir)?"
LOCKFILE = Schema({Required(key) if key == "stages" else key: value for key, value in LOCKFILE_SCHEMA.items()})

Problem: TypeAlias = tuple[str, str]  # the problem, and its remedy
Note: TypeAlias = dict[str, Any]  # a process that reads or writes: its number and command
BusyList: TypeAlias = dict[str, Any]  # notes by path: one for a written path, several for a read path


@contextmanager
def turn() -> Iterator[int]:
    """Wait until no other run uses the repository, then lock it; yield the descriptor of the lock file.

    Two runs at once would find each other's stages busy. The lock lasts as long as a process has the lock file open.
    The commands of stages inherit the open file, so a run also waits for the commands of a killed runner.
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
    """Return the problem and its remedy if `dvc.lock` exists, but is not a whole file that DVC wrote."""
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
    """Return DVC's list of busy files; None if the list is unreadable, which stops every DVC command."""
    try:
        listed: BusyList = BUSY_LIST(json.loads(BUSY.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return BUSY_LIST({})
    except (ValueError, Invalid, RecursionError):
        return None
    return listed


def at_work() -> list[int]:
    """Return the process numbers of DVC commands that write outputs here."""
    return sorted({each["pid"] for each in (busy_list() or {}).get("write", {}).values() if _alive(each)})


def _alive(noted: Note) -> bool:
    """Whether the DVC process that left a note is alive. A new process may have the same number."""
    try:
        process = psutil.Process(noted["pid"])
        words, began = process.cmdline(), process.create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's process
        return True
    if process.pid == os.getpid() or began > BUSY.stat().st_mtime + SLACK:
        return False
    ours = (Path(word).stem == "dvc" or word.startswith("pipeline.") for word in words)
    return any(ours) or noted["cmd"] in " ".join(words)  # DVC notes a module as the path of its file


def mend() -> None:
    """Wait for running DVC commands, then repair DVC's files; exit with a message if a repair needs the user's choice.

    The caller must hold the `turn`.
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
