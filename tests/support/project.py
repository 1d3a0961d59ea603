"""Copies of the repository with parameters that make the pipeline fast. Fault injection damages these copies."""

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
    """Copy of the repository in `folder`, with parameters that make the pipeline fast. An existing copy is used."""

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
        """Copy the project, with DVC's caches, checkpoints, and an MLflow that writes its files in the new folder."""
        shutil.copytree(self.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*"))
        source, target = (f"{each}/mlflow.db" for each in (self.folder, folder))
        with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
            here.executescript("\n".join(there.iterdump()).replace(f"{self.folder}/", f"{folder}/"))
        return Project(folder)

    def end(self) -> None:
        """Kill all processes that still work in the project, which a failed test leaves."""
        processes.end(processes.working_in(self.folder))

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True)

    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = YAML(typ="safe", pure=True).load(self.folder / "params.yaml")
        return params

    def write_params(self, params: dict[str, Any]) -> None:
        yaml = YAML()
        yaml.representer.ignore_aliases = lambda _: True  # tests use the same section in two places
        yaml.dump(params, self.folder / "params.yaml")

    def environment(self, **more: str) -> dict[str, str]:
        """Environment of commands, with one CPU per stage, since imports in a second process would take too long."""
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
        """Run `dvc repro`, and return the stages that DVC ran."""
        done = self.run("dvc", "repro", *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]

    def side_by_side(self) -> list[str]:
        """Run `pipeline.runner.repro`, two stages at a time, and return the stages that ran."""
        done = self.run(*SIDE_BY_SIDE)
        assert done.returncode == 0, done.stdout + done.stderr
        return outcomes(done.stdout, "done")

    def processes(self, stage: str, module: str) -> list[psutil.Process]:
        """Processes `python -m module … stage` of a stage of this project."""
        return [p for p in psutil.process_iter() if self._works_at(p, stage, module)]

    def _works_at(self, process: psutil.Process, stage: str, module: str) -> bool:
        try:
            command = process.cmdline()
            return {"-m", module, stage} <= set(command) and process.cwd() == str(self.folder.resolve())
        except psutil.Error:  # the process has ended, or belongs to another user
            return False

    def lock(self) -> dict[str, Any]:
        """Hashes of all outputs in `dvc.lock`, by path."""
        stages = YAML(typ="safe", pure=True).load(self.folder / "dvc.lock")["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def outcomes(output: str, what: str) -> list[str]:
    """Stages with the outcome `what` in the output of `pipeline.runner.repro`, in order."""
    return re.findall(rf"^ *\d+:\d\d  {what} +(\S+)", output, re.MULTILINE)
