"""The folder of a training: snapshots while the training runs, and the result of the finished training.

A training trains one entry with one seed. An entry is a model with its settings, in the section `variants` of
`params.yaml`. The folder is no output of DVC, because DVC deletes outputs before it runs a stage.

The folder's name contains a fingerprint: a hash of everything on which the trained weights depend. If nothing has
changed, the next run of the training finds the same folder. The run then resumes an unfinished training, and skips a
finished training.
"""

import hashlib
import json
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch
from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from aelab.core import disk, tensor_file
from aelab.core.errors import DamagedFile, UserError
from aelab.models import checkpoint
from aelab.models.base import Autoencoder
from aelab.training.loop import Session
from aelab.training.snapshots import Snapshots
from aelab.training.state import PhaseResult, Stopped
from pipeline.common import paths
from pipeline.common.params import CLEAN, PARAMS, Params

DAYS = 30  # a folder that no training has used for so many days is deleted


@dataclass(frozen=True)
class TrainingFolder:
    """The folder of one training, and the names of the files in the folder."""

    folder: Path

    @classmethod
    def of(cls, entry: str, seed: int, params: Params, machine: Mapping[str, str]) -> Self:
        """Return the folder for the training of `entry` with `seed`.

        Args:
            entry: name of the entry.
            seed: seed of the training.
            params: the checked parameters.
            machine: device, name of the hardware, precision, and mode of execution.
        """
        section, training = params.entry(entry).model_dump(), params.training.model_dump()
        dynamic = params.dataset.binarize == "dynamic"
        versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        contents = {dep: _content(dep) for dep in _deps(entry, section)}
        depends_on = [entry, seed, section, training, dynamic, dict(machine) | versions, contents]
        fingerprint = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
        return cls(paths.checkpoints() / f"{entry}-seed{seed}-{fingerprint}")

    @property
    def fingerprint(self) -> str:
        """Hash of everything on which the trained weights depend."""
        return self.folder.name.rpartition("-")[2]

    @property
    def name(self) -> str:
        """Entry and seed of the training, such as vae-seed0."""
        return self.folder.name.rpartition("-")[0]

    @property
    def curve(self) -> Path:
        """File of the learning curve. Each line is one point as a JSON object, in the order of the training."""
        return self.folder / "curve.jsonl"

    @property
    def about(self) -> Path:
        """File that describes the training: entry, seed, machine, parameters, and the time of each start."""
        return self.folder / "about.json"

    @property
    def model(self) -> Path:
        """File of the trained model. The file exists only after the end of the training."""
        return self.folder / "model.safetensors"

    @property
    def finished(self) -> Path:
        """File with the outcome (such as the best step) and the cost of the training, written last of all files."""
        return self.folder / "finished.json"

    def lock(self) -> FileLock:
        """Return the file lock that a process holds while it trains in this folder."""
        return FileLock(self.folder / "lock")

    @contextmanager
    def held(self, stop: Callable[[], bool]) -> Iterator[None]:
        """Context that first waits until no other process trains in this folder, and then holds the lock.

        Raises:
            Stopped: `stop` returned true during the wait.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock, announced = self.lock(), False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0.2)
            except Timeout:
                if not announced:
                    print(f"another process is training in {self.folder}: waiting for it", flush=True)
                announced = True
                if stop():
                    raise Stopped from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def session(self, about: Mapping[str, Any], stop: Callable[[], bool], *, writes: bool) -> Iterator[Session]:
        """Context with a `Session`, through which the training loop writes the curve and the snapshots to this folder.

        If the folder has a snapshot, the training resumes from its last snapshot.

        Args:
            about: entry, seed and machine, for the file `about`.
            stop: function that returns whether the training should end after the next snapshot.
            writes: whether this process writes the files. If several processes share the training, only one writes.
        """
        snapshots = Snapshots(self.folder, stop=stop, writes=writes)
        if not writes:
            yield Session(store=snapshots)
            return
        begun = [*(disk.read_json(self.about)["begun"] if self.about.exists() else []), time.time()]
        content = {
            **about,
            "fingerprint": self.fingerprint,
            "begun": begun,
            "parameters": raw_parameters(about["entry"]),
        }
        disk.write_atomically(self.about, disk.as_json(content))
        with CurveLog(self.curve) as log:
            if latest := snapshots.latest():
                step, phase = latest.values.get("step", 0), latest.values["phase"]
                print(f"{self.name} continues from step {step:,} of the {phase}")
                for phase, point in latest.points():  # after a power cut, the file may lack some points
                    log.write({"phase": phase} | point)
            follow = lambda phase, point: log.write({"phase": phase} | point)  # noqa: E731
            yield Session(self.name, follow=follow, store=snapshots)

    def result(self) -> dict[str, Any] | None:
        """Return the content of the file `finished`; None if the training is unfinished or a file is damaged.

        After damage, the function deletes the training's files, so that the training starts again.
        """
        if not self.finished.exists():
            return None
        damage = f"{self.curve} has changed"
        try:
            tensor_file.read(self.model)
            ended: dict[str, Any] = disk.read_json(self.finished)
            if ended["curve"] == disk.digest(self.curve):
                return ended
        except (DamagedFile, OSError, ValueError, LookupError) as error:
            damage = str(error)
        print(f"{damage}: the training starts again from step 0", flush=True)
        for path in (self.finished, self.model, self.curve, self.about):
            path.unlink(missing_ok=True)
        return None

    def finish(self, model: Autoencoder, results: Mapping[str, PhaseResult], cost: Mapping[str, Any]) -> None:
        """Write the model, delete the snapshots, and write the file `finished`.

        Args:
            model: the trained model.
            results: result of each phase, such as the autoencoder and its prior.
            cost: duration, speed and memory of the training.
        """
        checkpoint.save(model, self.model)
        Snapshots(self.folder).clear()
        outcome = {
            phase: {"best_step": each.best_step, "diverged_at_step": each.diverged_at_step, "cause": each.cause}
            for phase, each in results.items()
        }
        begun = disk.read_json(self.about)["begun"]
        whole = {"started": begun[0], "ended": time.time(), "interruptions": len(begun) - 1, **cost}
        content = {"outcome": outcome, "cost": whole, "curve": disk.digest(self.curve)}
        disk.write_atomically(self.finished, disk.as_json(content))

    def hand_over(self, entry: str, seed: int) -> dict[str, Any]:
        """Copy the files of a finished training to DVC's outputs, and return the training's cost and fingerprint.

        Raises:
            FileNotFoundError: the training is not finished in this folder.
        """
        ended = disk.read_json(self.finished)
        models = paths.MODELS / entry
        models.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.model, models / f"seed{seed}.safetensors")
        disk.write_json(models / f"seed{seed}.json", ended["outcome"])
        paths.curve(entry, seed).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.curve, paths.curve(entry, seed))
        return {**ended["cost"], "fingerprint": self.fingerprint}


class CurveLog:
    """Writes a training's learning curve to a file. If the process is killed, the written points remain.

    A training that resumes from a snapshot repeats the points after the snapshot. The file keeps the first version of
    each point. A point with a validation loss also has the CPU and memory use of this process, under MLflow's names.
    """

    def __init__(self, path: Path) -> None:
        self.process = psutil.Process()
        self.process.cpu_percent()  # the first call only starts the measurement
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]  # without a last line that was only written in part
        self.known = {_name(json.loads(line)) for line in whole.splitlines()}
        self.file = path.open("ab")
        self.file.truncate(len(whole))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, point: Mapping[str, Any]) -> None:
        """Append `point` to the file, unless the file already has this point."""
        if _name(point) not in self.known:
            self.known.add(_name(point))
            point = {**point, **(self._system() if "validation_loss" in point else {})}
            self.file.write(json.dumps(point, allow_nan=False, ensure_ascii=False).encode() + b"\n")
            self.file.flush()

    def _system(self) -> dict[str, float]:
        """Return the CPU use of this process, in % of one core, and its memory, in MB."""
        return {
            "system/cpu_utilization_percentage": self.process.cpu_percent(),
            "system/memory_usage_megabytes": round(self.process.memory_info().rss / 1e6, 1),
        }


def tidy() -> None:
    """Delete the folders that no training has used for `DAYS` days."""
    for folder in paths.checkpoints().glob("*-seed*"):
        ages = [time.time() - path.stat().st_mtime for path in folder.iterdir()]
        if min(ages, default=0.0) > DAYS * 86400:
            shutil.rmtree(folder, ignore_errors=True)


def raw_parameters(entry: str) -> dict[str, Any]:
    """Return the sections of `params.yaml` that define a training of `entry`.

    The result's keys have DVC's form, such as `variants.vae`.
    """
    content = YAML(typ="safe", pure=True).load(PARAMS.read_text(encoding="utf-8"))
    section, corruption = content["variants"][entry], content["corruption"]
    sections = {key: content[key] for key in ("dataset", "training")} | {f"variants.{entry}": section}
    sections |= {f"corruption.{key}": corruption[key] for key in ("seed", "reference", "test")}
    inputs = section["inputs"]
    return sections if inputs == CLEAN else sections | {f"corruption.train.{inputs}": corruption["train"][inputs]}


def _name(point: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what identifies a point of the curve: its phase, its step, and the names of its losses."""
    return point["phase"], point["step"], *sorted(key for key in point if key.endswith("loss"))


def _deps(entry: str, section: Mapping[str, Any]) -> list[str]:
    """Return the dependencies of the stage train@entry in `dvc.yaml`, without requirements.lock.

    Instead of requirements.lock, the fingerprint covers the versions of Python, torch and NumPy.
    """
    architecture = YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))

    def value(match: re.Match[str]) -> str:
        found: Any = {"key": entry, "item": section}
        for part in match[1].split("."):
            found = found[part]
        return str(found)

    deps = architecture["stages"]["train"]["do"]["deps"]
    return [re.sub(r"\$\{([\w.]+)\}", value, dep) for dep in deps if dep != "requirements.lock"]


def _content(dep: str) -> object:
    """Return the hash of the dependency `dep`.

    The hash of a data folder is the hash of its file SHA256SUMS. For a folder of code, the function returns a mapping
    with the hash of each Python file.
    """
    path = Path(dep)
    if not path.exists():
        msg = f"{path} does not exist: `make repro` writes it, or `dvc repro` of the stage that has it as output"
        raise UserError(msg)
    if path.is_dir() and (path / disk.SUMS).exists():
        path = path / disk.SUMS
    if path.is_dir():
        return {str(each.relative_to(path)): disk.digest(each) for each in sorted(path.rglob("*.py"))}
    return disk.digest(path)
