"""A copy of the repository with parameters that make it fast: what is killed, filled and flipped."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parent.parent.parent
SIDE_BY_SIDE = (sys.executable, "-m", "pipeline.runner.repro", "--jobs", "2")


class Project:
    """A copy of the repository with parameters that make it fast."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True)

    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = YAML(typ="safe", pure=True).load(self.folder / "params.yaml")
        return params

    def write_params(self, params: dict[str, Any]) -> None:
        YAML().dump(params, self.folder / "params.yaml")

    def run(self, *command: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "PYTHONPATH": str(self.folder / "src"), "DVC_NO_ANALYTICS": "true"}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DVC"))}
        return subprocess.run(
            command,
            cwd=folder or self.folder,
            capture_output=True,
            text=True,
            check=False,
            env=inherited | own | environment,
        )

    def repro(self, *arguments: str) -> list[str]:
        """The stages that `dvc repro` ran."""
        done = self.run("dvc", "repro", *arguments)
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
