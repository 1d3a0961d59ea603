"""Runs take turns; and what a DVC that was killed in the middle of a write leaves behind, and what mends it."""

import fcntl
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

DVC_LOCK, BUSY, TURN = Path("dvc.lock"), Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/pipeline.lock")
TORN = "dvc.lock is damaged: it broke off while it was being written"
REMEDY = "git checkout dvc.lock, or rm dvc.lock; what was trained is not trained again"


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


def torn() -> bool:
    """Whether `dvc.lock` is there but cannot be what DVC wrote."""
    try:
        content = YAML(typ="safe", pure=True).load(DVC_LOCK.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (YAMLError, ValueError):
        return True
    stages = content.get("stages") if isinstance(content, dict) else None
    return not isinstance(stages, dict) or not all(map(_whole, stages.values()))


def _whole(stage: Any) -> bool:
    outs = stage.get("outs") if isinstance(stage, dict) and "cmd" in stage else None
    return isinstance(outs, list) and all(
        isinstance(out, dict) and re.fullmatch(r"[0-9a-f]{32}(\.dir)?", str(out.get("md5"))) for out in outs
    )


def busy_list() -> dict[str, Any] | None:
    """DVC's list of busy files; None if it broke off while it was being written, which stops every DVC."""
    try:
        return dict(json.loads(BUSY.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        return None


def at_work() -> list[int]:
    """The process numbers of DVCs that are writing outputs here."""
    writing = (busy_list() or {}).get("write", {}).values()
    return sorted({int(each["pid"]) for each in writing if psutil.pid_exists(int(each["pid"]))})


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
    if torn():
        sys.exit(f"\n{TORN}; what mends it: {REMEDY}\n")
    if busy_list() is None:
        BUSY.unlink(missing_ok=True)
        print(f"removed {BUSY}, which a killed DVC had left unfinished", flush=True)
