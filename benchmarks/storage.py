"""(m) Time of `dvc push` and `dvc pull`, with an S3 server on this machine.

The push sends the last commit's results to the server. The pull fetches the results into a fresh clone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Table, Value, seconds
from tests.support.s3 import s3, use

REPOSITORY = Path(__file__).parent.parent
DVC = (sys.executable, "-m", "dvc")


def run() -> Table:
    """Time the push, the pull and, for comparison, a plain copy of the same files."""
    asked = subprocess.run([*DVC, "cache", "dir"], cwd=REPOSITORY, capture_output=True, text=True, check=True)  # noqa: S603
    cache = REPOSITORY / asked.stdout.strip()
    if not (cache / "files").exists():
        sys.exit(f"there is nothing to push in {cache}: run `make repro` first")
    with tempfile.TemporaryDirectory() as folder, s3(Path(folder) / "s3") as store:
        here, there = (_clone(Path(folder) / name) for name in ("here", "there"))
        own = os.environ | store.environment() | {"DVC_NO_ANALYTICS": "true"}
        for clone in (here, there):
            use(clone, store)
        _dvc(here, own, "cache", "dir", "--local", str(cache))
        push = seconds(lambda: _dvc(here, own, "push", "--quiet"))
        pull = seconds(lambda: _dvc(there, own, "pull", "--quiet"))
        stored = [path for path in (Path(folder) / "s3").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in stored) / 2**20
        copied = seconds(lambda: shutil.copytree(Path(folder) / "s3", Path(folder) / "copy"))
        models = len(list((there / "models").rglob("*.safetensors")))
    took = {"dvc push": push, "dvc pull": pull, "a copy of the same files": copied}
    rows: list[list[Value]] = [[what, each, size / each] for what, each in took.items()]
    note = (
        f"The run has {len(stored)} objects, {size:,.0f} MiB, with {models} models. The server is on this machine, and "
        "DVC's option `verify` is on."
    )
    return Table("(m) Push and pull of a finished run", note, {"": 0, "seconds": 1, "MiB/s": 0}, rows)


def _clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], check=True)  # noqa: S603, S607
    return folder


def _dvc(clone: Path, environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([*DVC, *arguments], cwd=clone, env=environment, check=True)  # noqa: S603
