"""A copy of the repository with parameters that make it fast: what is killed, filled and flipped."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from pipeline.common import resources
from tests.support import processes

REPOSITORY = Path(__file__).parent.parent.parent
SIDE_BY_SIDE = (sys.executable, "-m", "pipeline.runner.repro", "--jobs", "2")


class Project:
    """A copy of the repository with parameters that make it fast; a folder that holds one is taken as it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / ".git").exists():
            self._begin()

    def _begin(self) -> None:
        folder = self.folder
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in listed.stdout.splitlines():
            source = REPOSITORY / name
            if source.exists() and not name.startswith(("reports/", "dvc.lock")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder / name)
        self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "start")
        params = self.params()
        params["dataset"]["name"] = "digits"
        params["seeds"] = [0, 1]
        params["training"]["steps"] = params["evaluation"]["classifier"]["steps"] = 30
        for section in params["variants"].values():
            section.pop("training", None)
        params["variants"]["vqvae"]["prior"]["training"]["steps"] = 15
        self.write_params(params)

    def copy(self, folder: Path) -> "Project":
        """One to write in, with DVC's cache and run cache, checkpoints, and an MLflow that keeps its files there."""
        shutil.copytree(self.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*"))
        source, target = (f"{each}/mlflow.db" for each in (self.folder, folder))
        with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
            here.executescript("\n".join(there.iterdump()).replace(f"{self.folder}/", f"{folder}/"))
        return Project(folder)

    def end(self) -> None:
        """Kill whatever still works here, for a test that has failed."""
        processes.end(processes.working_in(self.folder))

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True)

    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = YAML(typ="safe", pure=True).load(self.folder / "params.yaml")
        return params

    def write_params(self, params: dict[str, Any]) -> None:
        yaml = YAML()
        yaml.representer.ignore_aliases = lambda _: True  # sections that tests have in two places
        yaml.dump(params, self.folder / "params.yaml")

    def environment(self, **more: str) -> dict[str, str]:
        """What commands run with: one CPU for each stage, since a second process imports for longer than it works."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "DVC_NO_ANALYTICS": "true", resources.CPUS: "1"}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DVC"))}
        return inherited | own | {"MLFLOW_DISABLE_TELEMETRY": "true"} | more

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False,
            env=self.environment(**environment),
        )  # fmt: skip

    def repro(self, *arguments: str, **environment: str) -> list[str]:
        """The stages that `dvc repro` ran."""
        done = self.run("dvc", "repro", *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]

    def side_by_side(self) -> list[str]:
        """The stages that `pipeline.runner.repro` ran, two at a time."""
        done = self.run(*SIDE_BY_SIDE)
        assert done.returncode == 0, done.stdout + done.stderr
        return outcomes(done.stdout, "done")

    def processes(self, stage: str, module: str) -> list[psutil.Process]:
        """What runs in this project for a stage: `python -m module … stage`."""
        return [p for p in psutil.process_iter() if self._works_at(p, stage, module)]

    def _works_at(self, process: psutil.Process, stage: str, module: str) -> bool:
        try:
            command = process.cmdline()
            return {"-m", module, stage} <= set(command) and process.cwd() == str(self.folder.resolve())
        except psutil.Error:  # over, or not ours
            return False

    def lock(self) -> dict[str, Any]:
        """The hash of every output in `dvc.lock`."""
        stages = YAML(typ="safe", pure=True).load(self.folder / "dvc.lock")["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def outcomes(output: str, what: str) -> list[str]:
    """The stages of which `pipeline.runner.repro` says `what`, in order."""
    return re.findall(rf"^ *\d+:\d\d  {what} +(\S+)", output, re.MULTILINE)
