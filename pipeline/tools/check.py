"""check: verify params.yaml, dvc.lock, and the checksums of data and models, with the functions that the stages use.

    python -m pipeline.tools.check

The command changes nothing. Each printed problem names the command that repairs the damage.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from aelab.core import disk, tensor_file
from aelab.core.errors import DamagedFile, UserError
from pipeline.common import params, paths
from pipeline.runner import locks
from pipeline.runner.locks import Problem


def main() -> None:
    """Check params.yaml, dvc.lock, data and models; print each problem and its remedy."""
    problems = [*_parameters(), *_locks(), *_outputs()]
    for what, remedy in problems:
        print(f"✗ {what}\n  → {remedy}".replace(f"{Path.cwd()}/", ""))
    if problems:
        sys.exit(1)
    print("✓ params.yaml, dvc.lock, data and models are in order")


def _parameters() -> list[Problem]:
    try:
        params.load()
    except UserError as error:
        return [(line, "edit params.yaml") for line in str(error).splitlines()]
    return []


def _locks() -> Iterator[Problem]:
    if problem := locks.damage():
        yield problem
    if locks.busy_list() is None:
        yield f"{locks.BUSY} is damaged, which stops every DVC command", f"rm {locks.BUSY}"


def _outputs() -> Iterator[Problem]:
    """Yield a problem for each folder of arrays, and for each model, that has changed since a stage wrote it."""
    arrays = {path.parent for path in Path("data").rglob("*") if path.name == disk.SUMS or path.suffix == ".npy"}
    models = {*paths.MODELS.glob("*/*.safetensors"), *paths.CLASSIFIER.glob("*.safetensors")}
    for path in sorted(arrays | models):
        try:
            disk.check(path) if path in arrays else tensor_file.read(path)
        except DamagedFile as damage:
            out = path if path in arrays else path.parent
            yield str(damage), f"rm -rf {out} && dvc checkout {out}, or make repro"


if __name__ == "__main__":
    typer.run(main)
