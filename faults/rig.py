"""Copy of the repository in which the fault suite undoes, interrupts and repeats the stages of the pipeline."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
from ruamel.yaml import YAML

from tests.support.processes import PATIENCE
from tests.support.project import Project

EVERY = "0.1"  # seconds between two checkpoints: so short that many kills interrupt the writing of a checkpoint
LEAVES_WITHIN = 5.0  # after a signal, a process must end within this number of seconds
# Columns of `reports/comparison.csv` that differ between two runs with equal results.
PROVENANCE = {"started", "train_seconds", "images_per_second", "peak_memory_mib"}
ENTRIES = ("ae", "dae", "vae", "vqvae")  # the model configurations in params.yaml whose trainings the suite kills


class Rig:
    """Copy of the repository in which the pipeline has run once, with digests of the results of this first run."""

    def __init__(self, folder: Path, *, steps: int = 600, seeds: int = 1, processes: int = 1) -> None:
        self.project = Project(folder)
        params = self.project.params()
        params["training"] |= {"steps": steps, "processes": processes}
        params["seeds"] = list(range(seeds))
        params["variants"]["vqvae"]["prior"]["training"]["steps"] = steps
        self.project.write_params(params)
        self.must(self.start("dvc", "repro"))
        self.whole = self.digests()
        self.took = 0.0  # seconds between the last signal that `break_off` sent and the end of the command

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment variables of the commands. `more` adds or replaces variables."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "DVC"))}
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "AELAB_CHECKPOINT": EVERY,
        }
        return kept | own | more

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command in the project's folder, in a new session. A log file gets the command's output."""
        log = self.project.folder.parent / f"{self.project.folder.name}.log"
        with log.open("w", encoding="utf-8") as file:
            return subprocess.Popen(
                command, cwd=self.project.folder, env=self.environment(**environment), text=True,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        """Return the output of the command that was started last."""
        return (self.project.folder.parent / f"{self.project.folder.name}.log").read_text(encoding="utf-8")

    def must(self, process: "subprocess.Popen[str]") -> None:
        """Wait until a command ends. Raise a `RuntimeError` if the command failed."""
        if process.wait(PATIENCE) != 0:
            msg = f"a run failed:\n{self.said()}"
            raise RuntimeError(msg)

    def forget(self, *stages: str) -> None:
        """Undo stages, so that the next run repeats them.

        Delete the stages' records in `dvc.lock` and their outputs outside of `reports`. Delete all checkpoints and
        DVC's whole run cache, too.
        """
        lock = self.project.folder / "dvc.lock"
        content = YAML(typ="safe", pure=True).load(lock)
        for stage in stages:
            for out in content["stages"].pop(stage, {}).get("outs", []):
                if not out["path"].startswith("reports"):
                    place = self.project.folder / out["path"]
                    shutil.rmtree(place, ignore_errors=True)
                    if place.is_file():
                        place.unlink()
        YAML().dump(content, lock)
        shutil.rmtree(self.project.folder / ".dvc/cache/runs", ignore_errors=True)
        for slot in (self.project.folder / "checkpoints").glob("*"):
            shutil.rmtree(slot, ignore_errors=True)

    def digests(self) -> dict[str, str]:
        """Return the results that every run must reproduce: data, weights, metrics, and the report without times.

        The keys are the names of the results. A value is the file's digest or, for a table, the table as text.
        """
        folder, found = self.project.folder, dict[str, str]()
        for out, digest in self.project.lock().items():
            if not out.startswith(("provenance", "reports")):
                found[out] = digest
        for path in sorted((folder / "reports").rglob("*")):
            if path.suffix == ".json" or (path.suffix == ".png" and path.stem != "learning_curves"):
                found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        table = pd.read_csv(folder / "reports/comparison.csv")
        found["comparison.csv"] = table.drop(columns=list(PROVENANCE)).to_csv()
        for curve in sorted((folder / "reports/curves").rglob("*.csv")):
            found[str(curve.relative_to(folder))] = pd.read_csv(curve).drop(columns="seconds").to_csv()
        return found

    def differs(self) -> list[str]:
        """Return the names of the results that differ from the results of the first run."""
        now = self.digests()
        return sorted(name for name in self.whole.keys() | now.keys() if self.whole.get(name) != now.get(name))

    def at_work(self) -> list[psutil.Process]:
        """Return all running processes whose current folder is the project's folder."""
        return [each for each in psutil.process_iter() if self._is_here(each)]

    def _is_here(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.cwd() == str(self.project.folder.resolve()) and process.status() != psutil.STATUS_ZOMBIE
        return False

    def left_over(self) -> list[str]:
        """Wait up to `LEAVES_WITHIN` seconds until no process works in the project.

        Returns:
            The commands of the processes that still run after this time.
        """
        until = time.monotonic() + LEAVES_WITHIN
        while (here := self.at_work()) and time.monotonic() < until:
            time.sleep(0.1)
        names = []
        for process in here:
            with contextlib.suppress(psutil.Error):
                names.append(" ".join(process.cmdline()))
        return names

    def of(self, *words: str) -> list[psutil.Process]:
        """Return the processes that work in the project and whose command lines contain all `words`."""
        found = []
        for process in self.at_work():
            with contextlib.suppress(psutil.Error):
                if all(any(word in part for part in process.cmdline()) for word in words):
                    found.append(process)
        return found

    def training(self, entry: str) -> bool:
        """Whether a training of the entry has begun to write its learning curve."""
        return any((self.project.folder / "checkpoints").glob(f"{entry}-seed*/curve.jsonl"))

    def in_prior(self) -> bool:
        """Whether the training of the VQ-VAE has finished the autoencoder; the training of the prior comes next."""
        for curve in (self.project.folder / "checkpoints").glob("vqvae-seed*/curve.jsonl"):
            lines = curve.read_text(encoding="utf-8").splitlines()
            steps = [json.loads(line)["step"] for line in lines if line.endswith("}") and "autoencoder" in line]
            return bool(steps) and steps[-1] == self.project.params()["training"]["steps"]
        return False

    def break_off(
        self,
        command: tuple[str, ...],
        when: Callable[[], object],
        delay: float,
        whom: Callable[[], list[psutil.Process]],
        number: signal.Signals = signal.SIGKILL,
    ) -> bool:
        """Run a command, send a signal to some processes, and wait until the command ends.

        Args:
            command: the command.
            when: function without arguments. The delay begins as soon as the function returns a true value.
            delay: seconds between the begin of the delay and the signal.
            whom: function that returns the processes to which the signal is sent.
            number: the signal.

        Returns:
            Whether a process got the signal before the command ended.
        """
        process = self.start(*command)
        while process.poll() is None and not when():
            time.sleep(0.01)
        time.sleep(delay)
        victims, sent = whom() if process.poll() is None else [], time.monotonic()
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.send_signal(number)
        process.wait(PATIENCE)
        self.took = time.monotonic() - sent
        return bool(victims)

    def hit(
        self,
        command: tuple[str, ...],
        forgotten: tuple[str, ...],
        when: Callable[[], object],
        delay: float,
        whom: Callable[[], list[psutil.Process]],
    ) -> bool:
        """Undo the stages `forgotten`, run a command, and kill the processes that `whom` returns.

        If the command ends before the kill, try again with a shorter delay, up to 12 times. `break_off` explains the
        other arguments.

        Returns:
            Whether a process was killed.
        """
        for attempt in range(12):
            self.forget(*forgotten)
            if self.break_off(command, when, delay * 0.7**attempt, whom):
                return True
        return False


def moments(seed: object, longest: float) -> Iterator[float]:
    """Yield random delays between 0 and `longest`, without end."""
    rng = random.Random(str(seed))
    while True:
        yield rng.uniform(0, longest)
