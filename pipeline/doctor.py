"""doctor: rehash data, DVC's cache, models and checkpoints; look at locks, packages and the tracker's database.

    python -m pipeline.doctor

It changes nothing: for everything that is wrong it says what, and the command that mends it.
"""

import contextlib
import hashlib
import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import typer
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from autoencoders import datasets, disk, sealed
from autoencoders.errors import Damaged, UserError
from autoencoders.training.snapshots import LAST, PREVIOUS
from pipeline import locks, params, paths
from pipeline.training_folder import TrainingFolder

CACHE = Path(".dvc/cache/files/md5")
LEAST = 2**30  # bytes that should be free: a run of the default parameters writes two thirds of it


class Finding(NamedTuple):
    """Something that is wrong."""

    what: str
    mend: str  # a command, or what happens of itself


def main() -> None:
    """Say what is wrong with the files of this project, and what mends it."""
    findings = list(dict.fromkeys(finding for check in CHECKS for finding in check()))
    here = f"{Path.cwd()}/"
    for what, mend in findings:
        print(f"✗ {what}\n  → {mend}".replace(here, ""))
    if findings:
        sys.exit(1)
    print(f"✓ nothing is wrong with {_counted()}")


def _parameters() -> Iterator[Finding]:
    try:
        params.load()
    except UserError as problem:
        for line in str(problem).splitlines():
            yield Finding(line, "edit params.yaml")


def _locks() -> Iterator[Finding]:
    if locks.torn():
        yield Finding(locks.TORN, locks.REMEDY)
    if locks.busy_list_torn():
        yield Finding(f"{locks.BUSY} is damaged: it stops every DVC", f"rm {locks.BUSY}")


def _outputs() -> Iterator[Finding]:
    """What stages have left, in the workspace and in DVC's cache, against the hashes in `dvc.lock`."""
    absent = []
    for out in _locked():
        path, digest = Path(out["path"]), str(out["md5"])
        if not path.exists() and not _object(digest).exists():
            absent.append(str(path))
            continue
        listing = [Listed(path, digest)]
        if digest.endswith(".dir"):
            index = _object(digest)
            listed = _index(index, digest)
            if listed is None:
                mend = f"dvc commit --force {path}" if path.exists() else "make repro"
                yield Finding(f"DVC's list of {path}, {index}, is damaged or missing", f"rm -f {index} && {mend}")
                continue
            listing = [Listed(path / relative, md5) for relative, md5 in listed]
        yield from _compare(path, listing)
    if absent:
        yield Finding(f"these results of dvc.lock are not here: {', '.join(absent)}", "make repro, or dvc pull")


class Listed(NamedTuple):
    """A file that DVC has a hash of."""

    path: Path
    digest: str


def _compare(out: Path, listing: list[Listed]) -> Iterator[Finding]:
    """The files of one output and their copies in the cache."""
    for path, digest in listing:
        kept = _object(digest)
        here, there = _is(path, digest), _is(kept, digest)
        if there and here is not True:
            what = "is missing" if here is None else "is not what its stage has written"
            yield Finding(f"{path} {what}", f"rm -rf {out} && dvc checkout {out}")
        elif here and there is False:
            yield Finding(f"{kept}, {path} in DVC's cache, is damaged", f"rm -f {kept} && dvc commit --force {out}")
        elif not here and not there:
            what = "is neither here nor" if here is None and there is None else "is damaged, and not whole"
            yield Finding(f"{path} {what} in DVC's cache", f"rm -rf {out} {kept}, then dvc pull or make repro")
    if out.is_dir():
        for path in sorted(set(out.rglob("*")) - {listed.path for listed in listing}):
            if path.is_file():
                yield Finding(f"{path} was not written by its stage", f"rm {path}")


def _locked() -> list[dict[str, Any]]:
    """The outputs in `dvc.lock` that are in DVC's cache; none where it cannot be read."""
    if locks.torn() or not locks.DVC_LOCK.exists():
        return []
    stages = YAML(typ="safe", pure=True).load(locks.DVC_LOCK)["stages"]
    return [out for stage in stages.values() for out in stage["outs"] if not out["path"].startswith("reports")]


def _object(digest: str) -> Path:
    return CACHE / digest[:2] / digest[2:]


def _index(path: Path, digest: str) -> list[tuple[str, str]] | None:
    """The files of a folder as DVC's cache lists them; None if the list is not what its name says."""
    if not _is(path, digest.removesuffix(".dir")):
        return None
    return [(each["relpath"], each["md5"]) for each in json.loads(path.read_text(encoding="utf-8"))]


def _is(path: Path, digest: str) -> bool | None:
    """Whether a file has this MD5; None if it is not there."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == digest


def _raw_data() -> Iterator[Finding]:
    for folder in sorted(path for path in paths.raw().glob("*") if path.name in datasets.DATASETS):
        for file, expected in datasets.DATASETS[folder.name].files.items():
            path = folder / file
            if path.exists() and disk.digest(path) != expected:
                yield Finding(f"{path} does not have the pinned SHA-256", f"rm {path}; the next run fetches it again")


def _sealed_data() -> Iterator[Finding]:
    for folder in sorted({path.parent for path in Path("data").rglob(disk.SUMS)}):
        try:
            disk.check(folder)
        except Damaged as damage:
            yield Finding(str(damage), f"rm -rf {folder} && dvc checkout {folder}, or make repro")


def _models() -> Iterator[Finding]:
    for path in sorted([*paths.MODELS.glob("*/*.safetensors"), *paths.CLASSIFIER.glob("*.safetensors")]):
        yield from _whole(path, f"rm -rf {path.parent} && dvc checkout {path.parent}, or make repro")


def _checkpoints() -> Iterator[Finding]:
    for folder in sorted(paths.checkpoints().glob("*-seed*")):
        slot = TrainingFolder(folder)
        if slot.finished.exists():
            yield from _whole(slot.model, f"rm -r {folder}; only another run of its training would need it")
            with contextlib.suppress(OSError, ValueError, LookupError):
                if json.loads(slot.finished.read_bytes())["curve"] != disk.digest(slot.curve):
                    yield Finding(f"{slot.curve} has changed since its training ended", f"rm -r {folder}")
            continue
        for name in (LAST, PREVIOUS):
            if (folder / name).exists():
                yield from _whole(folder / name, "nothing to do: the training goes on from the one before it, or anew")


def _whole(path: Path, mend: str) -> Iterator[Finding]:
    try:
        sealed.read(path)
    except Damaged as damage:
        yield Finding(str(damage), mend)


def _database() -> Iterator[Finding]:
    path = Path("mlflow.db")
    if not path.exists():
        return
    found = "it cannot be opened"
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database,
    ):
        found = str(database.execute("pragma quick_check").fetchone()[0])
    if found != "ok":
        mend = f"mv {path} {path}.damaged && make track, which writes all runs anew"
        yield Finding(f"{path} is damaged: {' '.join(found.split())}", mend)


def _packages() -> Iterator[Finding]:
    lock = Path("requirements.lock").read_text(encoding="utf-8")
    wrong = []
    for line in re.findall(r"^[A-Za-z0-9][^\\\n]*==[^\\\n]*", lock, re.MULTILINE):
        locked = Requirement(line.strip())
        if locked.marker is None or locked.marker.evaluate():
            with contextlib.suppress(PackageNotFoundError):
                if not locked.specifier.contains(version(locked.name), prereleases=True):
                    wrong.append(f"{locked.name} {version(locked.name)} instead of {str(locked.specifier)[2:]}")
    if wrong:
        what = f"other versions are installed than the lock has: {', '.join(wrong)}"
        yield Finding(what, "rm .venv/ready && make .venv/ready")


def _room() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free
    if free < LEAST:
        yield Finding(f"only {free / 2**20:.0f} MiB are free on this disk", "dvc gc --workspace, or rm -r checkpoints")


def _counted() -> str:
    places = [Path("data"), CACHE, paths.MODELS, paths.checkpoints()]
    sizes = [path.stat().st_size for place in places for path in place.rglob("*") if path.is_file()]
    return f"{len(sizes):,} files, {sum(sizes) / 2**20:,.0f} MiB"


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _parameters, _locks, _outputs, _raw_data, _sealed_data, _models, _checkpoints, _database, _packages, _room,
)  # fmt: skip

if __name__ == "__main__":
    typer.run(main)
