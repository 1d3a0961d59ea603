"""Files that are whole or say that they are not: atomic writes, hashes, sealed folders; JSON and CSV."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from aelab.core.errors import DamagedFile

SUMS = "SHA256SUMS"  # what `sha256sum -c` reads
# What operating systems, editors and notebooks leave in folders.
LITTER = re.compile(
    r"\..*|.*~|.*\.sw[op]|(eh)?thumbs(_vista)?\.db|desktop\.ini|icon\r|__macosx|\$recycle\.bin|@eadir|lost\+found"
    r"|system volume information",
    re.IGNORECASE | re.DOTALL,
)


def seal(folder: Path) -> None:
    """Write down the SHA-256 of every file in `folder`, for `check`."""
    lines = [f"{digest(folder / name)}  {name}\n" for name in sorted(_content(folder))]
    write_atomically(folder / SUMS, "".join(lines).encode())


def check(folder: Path) -> None:
    """Read every file of a sealed folder and compare it with what was written.

    Raises:
        DamagedFile: one is missing or has changed, or the folder was never sealed.
    """
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        expected = {name: found for found, _, name in (line.rstrip("\n").partition("  ") for line in whole)}
        there = _content(folder)
    except (OSError, ValueError) as error:
        msg = f"{folder} cannot be checked: {error}"
        raise DamagedFile(msg) from error
    for name in sorted(there | set(expected)):
        if name not in there or name not in expected or digest(folder / name) != expected[name]:
            what = "is missing" if name not in there else "does not have the SHA-256 that it was written with"
            msg = f"{folder / name} {what}"
            raise DamagedFile(msg)


def _content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not LITTER.fullmatch(path.name)} - {SUMS}


def conflict(text: str) -> int | None:
    """The line in which git has marked the first conflict of a merge, if it has."""
    found = re.search(r"^<{7} ", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else None


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either all of it or what it held before, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Have the disk hold the names in `folder` as they are now; only POSIX knows that they may lag."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_lines(path: Path) -> list[Any]:
    """The objects of a file of JSON lines; a last line that is being written is left for later."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON; NaN and infinity are errors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_json(content))


def as_json(content: object) -> bytes:
    """`content` as the text of a JSON file; NaN and infinity are errors."""
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
