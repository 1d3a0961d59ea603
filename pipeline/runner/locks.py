"""Runs take turns; and what a DVC that was killed in the middle of a write leaves behind, and what mends it."""

import fcntl
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import psutil
from dvc.rwlock import SCHEMA as BUSY_LIST
from dvc.schema import LOCKFILE_SCHEMA
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from voluptuous import Invalid, Required, Schema

from aelab.core.disk import write_atomically

DVC_LOCK, BUSY, TURN = Path("dvc.lock"), Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/pipeline.lock")
TORN = (
    "dvc.lock is damaged: it broke off while it was being written, or was edited",
    "git checkout dvc.lock, or rm dvc.lock; what was trained is not trained again",
)
SETTLE = (
    "settle params.yaml first, then git checkout --theirs dvc.lock (or rm dvc.lock), make repro, git add dvc.lock; "
    "what was trained is not trained again"
)
MD5 = r"[0-9a-f]{32}(\.dir)?"
LOCKFILE = Schema({**LOCKFILE_SCHEMA, Required("stages"): LOCKFILE_SCHEMA["stages"]})

Problem: TypeAlias = tuple[str, str]  # what is wrong, and what mends it
BusyList: TypeAlias = dict[str, Any]  # by what is done, by path: the process's number and its command


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
        conflict = re.search(r"^<{7} ", text, re.MULTILINE)
        if conflict is None:
            content = LOCKFILE(YAML(typ="safe", pure=True).load(text))
            outs = [out for stage in content["stages"].values() for out in stage.get("outs", ())]
            whole = text.endswith("\n") and all(re.fullmatch(MD5, out["md5"]) for out in outs if "md5" in out)
            return None if whole else TORN
    except FileNotFoundError:
        return None
    except (YAMLError, ValueError, Invalid, LookupError, RecursionError):
        return TORN
    line = text.count("\n", 0, conflict.start()) + 1
    return f"dvc.lock holds the conflict of a merge, in line {line}", SETTLE


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


def _alive(noted: dict[str, Any]) -> bool:
    """Whether the process of a note is there, and still the one that made the note: numbers repeat."""
    try:
        words = psutil.Process(noted["pid"]).cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # somebody else's
        return True
    ours = (Path(word).stem == "dvc" or word.startswith("pipeline.") for word in words[:4])
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
        return
    read = {path: [each for each in readers if _alive(each)] for path, readers in listed["read"].items()}
    alive = {"write": {}, "read": {path: readers for path, readers in read.items() if readers}}
    if listed != alive:
        write_atomically(BUSY, json.dumps(alive).encode())
        print(f"took what a killed DVC had left out of {BUSY}", flush=True)
