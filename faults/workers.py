"""SIGKILL of a cluster's worker at random moments; the results must equal the results of an undisturbed run."""

import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from faults.table import Counts
from tests.support.cluster import cluster
from tests.support.project import Project
from tests.support.s3 import s3, use

LONGEST = 12.0  # approximate seconds that all trainings and evaluations of a run take together
ENTRIES = ("dae", "vqvae")


def kills(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Run the pipeline `count` times on two workers that share the folder of checkpoints.

    In each run, kill one of the two workers, and start a new worker.
    """
    rng = random.Random(f"{seed} workers")
    counts = Counts(
        "SIGKILL of a cluster's worker", "same weights and metrics as an undisturbed run on one machine", count
    )
    made = _project(folder)
    made.side_by_side()
    whole, lock = _bits(made), (made.folder / "dvc.lock").read_text(encoding="utf-8")
    checkpoints = folder.parent / "checkpoints"
    own = {"AELAB_CHECKPOINTS": str(checkpoints), "AELAB_CHECKPOINT": "0.1"}
    resumed = 0
    with s3(folder.parent / "s3") as store, cluster(folder.parent / "cluster", made.folder, 0, store) as running:
        for name in (names := ["worker0", "worker1"]):
            running.add(name, **own)
        for trial in range(count):
            running.wait(2)
            use(made.folder, store, f"trial{trial}")
            _forget(made, lock)
            shutil.rmtree(checkpoints, ignore_errors=True)
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.runner.repro", "--scheduler", running.address],
                cwd=made.folder, text=True,
                env=running.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            said = []
            for line in process.stdout or ():
                said.append(line)
                if "start" in line:
                    break
            time.sleep(rng.random() * LONGEST)
            over = process.poll() is not None
            victim = names.pop(rng.randrange(2))
            running.kill(victim)
            names.append(f"worker{trial + 2}")
            running.add(names[-1], **own)
            rest, _ = process.communicate()
            output = "".join(said) + rest
            resumed += len(re.findall("continues from step", output))
            same = process.returncode == 0 and _bits(made) == whole
            counts.add(same and not over, "over before the kill" if over else output[-300:])
    counts.remark = f"{resumed} trainings continued from a checkpoint"
    yield counts


def _project(folder: Path) -> Project:
    made = Project(folder)
    params = made.params()
    params["variants"] = {name: params["variants"][name] for name in ENTRIES}
    params["corruption"]["train"] = {"masked": params["corruption"]["train"]["masked"]}
    params["training"]["steps"] = 600
    made.write_params(params)
    dag = YAML(typ="safe", pure=True).load(folder / "dvc.yaml")
    del dag["stages"]["report"], dag["metrics"], dag["plots"]  # the report would run on this machine, not on a worker
    YAML().dump(dag, folder / "dvc.yaml")
    made.git("commit", "--quiet", "--all", "--message", "short")
    return made


def _forget(made: Project, lock: str) -> None:
    """Write the text `lock` to `dvc.lock` without the trainings and evaluations. The next run then repeats both."""
    content = YAML(typ="safe", pure=True).load(lock)
    content["stages"] = {
        name: stage for name, stage in content["stages"].items() if "@" not in name or "corrupt" in name
    }
    YAML().dump(content, made.folder / "dvc.lock")


def _bits(made: Project) -> dict[str, str]:
    return {path: md5 for path, md5 in made.lock().items() if not path.startswith("provenance")}
