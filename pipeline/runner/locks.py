"""Runs take turns; and what a DVC that was killed in the middle of a write leaves behind, and what mends it."""

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
    "dvc.lock is damaged: it broke off while it was being written, or was edited",
    "git checkout dvc.lock, or rm dvc.lock; what was trained is not trained again",
)
SETTLE = (
    "settle params.yaml first, then git checkout --theirs dvc.lock (or rm dvc.lock), make repro, git add dvc.lock; "
    "what was trained is not trained again"
)
SLACK = 2.0  # seconds, by which clocks of processes and of files may differ
MD5 = r"[0-9a-f]{32}(\.dir)?"
LOCKFILE = Schema({Required(key) if key == "stages" else key: value for key, value in LOCKFILE_SCHEMA.items()})

Problem: TypeAlias = tuple[str, str]  # what is wrong, and what mends it
Note: TypeAlias = dict[str, Any]  # of a process that reads or writes: its number and its command
BusyList: TypeAlias = dict[str, Any]  # notes by path: one of each that is written, all of each that is read


@contextmanager
def turn() -> Iterator[int]:
    """Let two runs take turns: each would find the other's stages busy.

    The turn lasts as long as any process has its file open. Commands inherit the file, so that a run waits for those of
    a runner that was killed to leave.
    """
    TURN.parent.mkdir(parents=True, exist_ok=True)
    with TURN.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another `make repro` is at work here: waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def damage() -> Problem | None:
    """Why `dvc.lock` cannot be used, if it is there: it cannot be what DVC has written."""
    try:
        text = DVC_LOCK.read_text(encoding="utf-8")
        if line := conflict(text):
            return f"dvc.lock holds the conflict of a merge, in line {line}", SETTLE
        content = LOCKFILE(YAML(typ="safe", pure=True).load(text))
    except FileNotFoundError:
        return None
    except (YAMLError, ValueError, Invalid, LookupError, RecursionError):
        return TORN
    outs = [out for stage in content["stages"].values() for out in stage.get("outs", ())]
    whole = text.endswith("\n") and all(re.fullmatch(MD5, out["md5"]) for out in outs if "md5" in out)
    return None if whole else TORN


def busy_list() -> BusyList | None:
    """DVC's list of busy files; None if DVC cannot read it, which stops every DVC."""
    try:
        listed: BusyList = BUSY_LIST(json.loads(BUSY.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return BUSY_LIST({})
    except (ValueError, Invalid, RecursionError):
        return None
    return listed


def at_work() -> list[int]:
    """The process numbers of DVCs that are writing outputs here."""
    return sorted({each["pid"] for each in (busy_list() or {}).get("write", {}).values() if _alive(each)})


def _alive(noted: Note) -> bool:
    """Whether the process of a note is there, and still the one that made the note: numbers repeat."""
    try:
        process = psutil.Process(noted["pid"])
        words, began = process.cmdline(), process.create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # somebody else's
        return True
    if process.pid == os.getpid() or began > BUSY.stat().st_mtime + SLACK:
        return False
    ours = (Path(word).stem == "dvc" or word.startswith("pipeline.") for word in words)
    return any(ours) or noted["cmd"] in " ".join(words)  # DVC notes a module by the path of its file


def mend() -> None:
    """Mend what can be mended without a loss; stop with a sentence where someone has to choose.

    Only for one who is alone with the repository: see `repro`.
    """
    announced = False
    while running := at_work():
        if not announced:
            print(f"waiting for another DVC that is at work here, process {str(running).strip('[]')}", flush=True)
        announced = True
        time.sleep(0.2)
    if problem := damage():
        sys.exit(f"\n{problem[0]}; what mends it: {problem[1]}\n")
    if (listed := busy_list()) is None:
        BUSY.unlink(missing_ok=True)
        print(f"removed {BUSY}, which a killed DVC had left unfinished", flush=True)
    elif not all(map(_alive, _notes(listed))):
        with _edit_rwlock(
            str(BUSY.parent), localfs, hardlink=False
        ) as held:  # as DVC does: others may be adding theirs
            held["write"] = {path: each for path, each in held["write"].items() if _alive(each)}
            held["read"] = {path: alive for path, each in held["read"].items() if (alive := [*filter(_alive, each)])}
        print(f"took what a killed DVC had left out of {BUSY}", flush=True)


def _notes(listed: BusyList) -> list[Note]:
    return [*listed["write"].values(), *(note for notes in listed["read"].values() for note in notes)]
