"""What trainings leave outside of DVC's outputs, which DVC deletes before it runs a stage: a folder for each seed.

It holds the snapshots of an unfinished training and the result of a finished one, under a name that no other training
has: that of everything it depends on. So a training that was broken off goes on, one that is done is not done again,
and no training ever finds what it did not write.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from autoencoders import sealed, storage
from autoencoders.errors import Damaged
from autoencoders.training import Stopped
from pipeline import paths, stage
from pipeline.params import CLEAN, PARAMS, Params

DAYS = 30  # after which a folder that nothing has touched goes, when the next training begins


@dataclass(frozen=True)
class Slot:
    """The folder of one training."""

    folder: Path

    @property
    def curve(self) -> Path:
        """Every point of its curve, one JSON object on each line, added as it is reached."""
        return self.folder / "curve.jsonl"

    @property
    def about(self) -> Path:
        """What is trained here."""
        return self.folder / "about.json"

    @property
    def model(self) -> Path:
        """The trained model, once it is."""
        return self.folder / "model.safetensors"

    @property
    def finished(self) -> Path:
        """How the training ended, once it has; written last."""
        return self.folder / "finished.json"

    @contextmanager
    def held(self, stop: Callable[[], bool]) -> Iterator[None]:
        """Have the training to oneself: another process that is at it is waited for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock, told = self.lock(), False
        while True:
            try:
                lock.acquire(timeout=0.2)
                break
            except Timeout:
                if not told:
                    print(f"another process is training in {self.folder}: waiting for it", flush=True)
                told = True
                if stop():
                    raise Stopped from None
        try:
            yield
        finally:
            lock.release()

    def lock(self) -> FileLock:
        """Held by the process that trains here, for as long as it lives."""
        return FileLock(self.folder / "lock")

    def result(self) -> dict[str, Any] | None:
        """How the training ended; None if it has not, or if what it left is not whole."""
        if not self.finished.exists():
            return None
        damage = f"{self.curve} has changed"
        try:
            sealed.read(self.model)
            ended: dict[str, Any] = stage.read_json(self.finished)
            if ended["curve"] == storage.digest(self.curve):
                return ended
        except (Damaged, OSError, ValueError, LookupError) as error:
            damage = str(error)
        print(f"{damage}: the training begins anew", flush=True)
        for path in (self.finished, self.model, self.curve, self.about):
            path.unlink(missing_ok=True)
        return None

    def finish(self, ended: Mapping[str, Any]) -> dict[str, Any]:
        """Write down how the training ended, once all else has been written."""
        content = {**ended, "curve": storage.digest(self.curve)}
        storage.write_atomically(self.finished, stage.as_json(content))
        return content


def slot(entry: str, seed: int, params: Params, machine: Mapping[str, str]) -> tuple[Slot, str]:
    """The folder of a seed's training, and the fingerprint that it is named by.

    Args:
        entry: of `variants`.
        seed: one of the seeds.
        params: the checked parameters.
        machine: what else the bits depend on: hardware, versions.
    """
    section, training = params.entry(entry).model_dump(), params.training.model_dump()
    dynamic = params.dataset.binarize == "dynamic"
    contents = {dep: _content(dep) for dep in _deps(entry, section)}
    depends_on = [entry, seed, section, training, dynamic, dict(machine), contents]
    fingerprint = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
    return Slot(paths.checkpoints() / f"{entry}-seed{seed}-{fingerprint}"), fingerprint


def tidy() -> None:
    """Remove the folders that no training has touched for `DAYS`."""
    for folder in paths.checkpoints().glob("*-seed*"):
        ages = [time.time() - path.stat().st_mtime for path in folder.iterdir()]
        if min(ages, default=0.0) > DAYS * 86400:
            shutil.rmtree(folder, ignore_errors=True)


class Log:
    """A curve that survives its writer: points that are in the file already keep the time when they were reached."""

    def __init__(self, path: Path) -> None:
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]  # a line that was being written goes
        self.known = {_name(json.loads(line)) for line in whole.splitlines()}
        self.file = path.open("ab")
        self.file.truncate(len(whole))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, point: Mapping[str, Any]) -> None:
        """Add a point that is not there yet, for everyone to see."""
        if _name(point) not in self.known:
            self.known.add(_name(point))
            self.file.write(json.dumps(point, allow_nan=False, ensure_ascii=False).encode() + b"\n")
            self.file.flush()


def raw_parameters(entry: str) -> dict[str, Any]:
    """The sections of `params.yaml` that make up a training, as DVC will record them."""
    content = YAML(typ="safe", pure=True).load(PARAMS.read_text(encoding="utf-8"))
    section, corruption = content["variants"][entry], content["corruption"]
    sections = {key: content[key] for key in ("dataset", "training")} | {f"variants.{entry}": section}
    sections |= {f"corruption.{key}": corruption[key] for key in ("seed", "reference", "test")}
    inputs = section["inputs"]
    return sections if inputs == CLEAN else sections | {f"corruption.train.{inputs}": corruption["train"][inputs]}


def _name(point: Mapping[str, Any]) -> tuple[object, ...]:
    return point["phase"], point["step"], *sorted(key for key in point if key.endswith("loss"))


def _deps(entry: str, section: Mapping[str, Any]) -> list[str]:
    """What the stage train@entry depends on, as `dvc.yaml` says it."""
    architecture = YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))

    def value(match: re.Match[str]) -> str:
        found: Any = {"key": entry, "item": section}
        for part in match[1].split("."):
            found = found[part]
        return str(found)

    return [re.sub(r"\$\{([\w.]+)\}", value, dep) for dep in architecture["stages"]["train"]["do"]["deps"]]


def _content(dep: str) -> object:
    """The hash of a file, of a folder's Python files, or of a sealed folder's hashes."""
    path = Path(dep)
    if path.is_dir() and (path / storage.SUMS).exists():
        path = path / storage.SUMS
    if path.is_dir():
        return {str(each.relative_to(path)): storage.digest(each) for each in sorted(path.rglob("*.py"))}
    return storage.digest(path)
