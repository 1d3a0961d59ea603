"""Files: atomic writes, the SHA-256 of each file in a folder, JSON and JSON lines."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from aelab.core.errors import DamagedFile

SUMS = "SHA256SUMS"  # file of a folder with the SHA-256 of its other files, in the format of `sha256sum -c`
# Names of files that operating systems, editors and notebooks create in any folder. Checks ignore these files.
LITTER = re.compile(
    r"\..*|.*~|.*\.sw[op]|(eh)?thumbs(_vista)?\.db|desktop\.ini|icon\r|__macosx|\$recycle\.bin|@eadir|lost\+found"
    r"|system volume information",
    re.IGNORECASE | re.DOTALL,
)


def seal(folder: Path) -> None:
    """Seal `folder`: write the SHA-256 of each of its files to `SHA256SUMS`, so that `check` can find changes."""
    lines = [f"{digest(folder / name)}  {name}\n" for name in sorted(_content(folder))]
    write_atomically(folder / SUMS, "".join(lines).encode())


def check(folder: Path) -> None:
    """Check that every file of a sealed folder still has the SHA-256 in `SHA256SUMS`.

    Raises:
        DamagedFile: A file is missing, changed or not in `SHA256SUMS`, or the folder has no `SHA256SUMS`.
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
            changed = (
                f"is not in {SUMS}" if name not in expected else "does not have the SHA-256 that it was written with"
            )
            msg = f"{folder / name} {'is missing' if name not in there else changed}"
            raise DamagedFile(msg)


def _content(folder: Path) -> set[str]:
    """Names of the files in `folder`, without `SHA256SUMS` and without files that other programs create."""
    return {path.name for path in folder.iterdir() if not LITTER.fullmatch(path.name)} - {SUMS}


def conflict(text: str) -> int | None:
    """Line number of the first conflict marker of git in `text`, counted from 1; None without a conflict."""
    found = re.search(r"^<{7} ", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else None


def digest(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically. After a power cut, the file has the old or the new content."""
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
    """Write the names of the files in `folder` to disk now. Without this call, POSIX systems may delay the write."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_lines(path: Path) -> list[Any]:
    """Read the objects of a JSON-lines file.

    An unfinished last line is left out, because another process may be writing this line.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def write_json(path: Path, content: object) -> None:
    """Write `content` to `path` as JSON. NaN and infinity raise a `ValueError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_json(content))


def as_json(content: object) -> bytes:
    """Return `content` as the bytes of a JSON file. NaN and infinity raise a `ValueError`."""
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
