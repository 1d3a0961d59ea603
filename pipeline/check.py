"""check: params.yaml, dvc.lock, and the seals of data and models, by the functions that the stages use.

    python -m pipeline.check

It changes nothing: it names everything that is wrong, and the command that mends it.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import typer

from autoencoders import sealed, storage
from autoencoders.errors import Damaged, UserError
from pipeline import locks, params, paths


class Problem(NamedTuple):
    """Something that is wrong."""

    what: str
    mend: str  # a command, or what to do


def main() -> None:
    """Say what is wrong with params.yaml, dvc.lock, data and models, and what mends it."""
    problems = [problem for check in (_parameters, _locks, _data, _models) for problem in check()]
    for what, mend in problems:
        print(f"✗ {what}\n  → {mend}".replace(f"{Path.cwd()}/", ""))
    if problems:
        sys.exit(1)
    print("✓ params.yaml, dvc.lock, data and models are in order")


def _parameters() -> Iterator[Problem]:
    try:
        params.load()
    except UserError as problem:
        for line in str(problem).splitlines():
            yield Problem(line, "edit params.yaml")


def _locks() -> Iterator[Problem]:
    if locks.torn():
        yield Problem(locks.TORN, locks.REMEDY)
    if locks.busy_list_torn():
        yield Problem(f"{locks.BUSY} is damaged: it stops every DVC", f"rm {locks.BUSY}")


def _data() -> Iterator[Problem]:
    files = (path for path in Path("data").rglob("*") if path.name == storage.SUMS or path.suffix == ".npy")
    for folder in sorted({path.parent for path in files}):
        yield from _damage(storage.check, folder, folder)


def _models() -> Iterator[Problem]:
    for path in sorted([*paths.MODELS.glob("*/*.safetensors"), *paths.CLASSIFIER.glob("*.safetensors")]):
        yield from _damage(sealed.read, path, path.parent)


def _damage(read: Callable[[Path], object], path: Path, out: Path) -> Iterator[Problem]:
    """What reading a sealed output finds."""
    try:
        read(path)
    except Damaged as damage:
        yield Problem(str(damage), f"rm -rf {out} && dvc checkout {out}, or make repro")


if __name__ == "__main__":
    typer.run(main)
