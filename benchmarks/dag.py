"""(d) Duration of whole runs of the pipeline, on the data set `digits` with one seed, in a fresh clone.

The runs are: cold (without earlier results), unchanged, with one changed entry, and restored from DVC's cache. A second
table divides the time of each stage into imports, data, arithmetic and the rest.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.measure import Table, Value, seconds

REPOSITORY = Path(__file__).parent.parent
PARALLEL = (sys.executable, "-m", "pipeline.runner.repro")
SEQUENTIAL = (sys.executable, "-m", "dvc", "repro")


class Clone:
    """A fresh clone of the repository's last commit, with parameters changed to the data set `digits` and one seed."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], check=True)  # noqa: S603, S607
        self.change(**{"dataset.name": "digits", "seeds": [0]} | changes)

    def parameters(self) -> Any:
        """Return the content of params.yaml."""
        return YAML(typ="safe", pure=True).load(self.folder / "params.yaml")

    def change(self, **changes: Any) -> None:
        """Set parameters in params.yaml. A dotted key, such as `dataset.name`, names a parameter."""
        content = self.parameters()
        for key, value in changes.items():
            *sections, last = key.split(".")
            section = content
            for name in sections:
                section = section[name]
            section[last] = value
        YAML().dump(content, self.folder / "params.yaml")

    def keep_variants(self, names: list[str]) -> None:
        """Remove all entries of `variants` except `names` from params.yaml."""
        variants = self.parameters()["variants"]
        self.change(variants={name: variants[name] for name in names})

    def time(self, *command: str, **environment: str) -> float:
        """Run a command in the clone, with additional environment variables; return the seconds."""
        own = os.environ | environment
        return seconds(lambda: subprocess.run(command, cwd=self.folder, env=own, check=True, capture_output=True))  # noqa: S603

    def provenance(self, name: str) -> dict[str, Any]:
        """Return what a stage recorded in `provenance/<name>.json`; an example of a name is `evaluate/vae`."""
        content: dict[str, Any] = json.loads((self.folder / "provenance" / f"{name}.json").read_text())
        return content


def run() -> list[Table]:
    """Return two tables: the durations of whole runs, and the time of each stage."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Clone(Path(folder) / "clone")
        rows: list[list[Value]] = [["cold, stages side by side", clone.time(*PARALLEL)]]
        stages = _stages(clone)
        rows.append(["nothing to do, stages side by side", clone.time(*PARALLEL)])
        rows.append(["nothing to do, dvc repro", clone.time(*SEQUENTIAL)])
        clone.change(**{"variants.vae.beta": 4.0})
        rows.append(["one variant changed", clone.time(*PARALLEL)])
        training = sum(seed["seconds"]["training"] for seed in clone.provenance("train/vae/training")["seeds"].values())
        rows.append(["… of which the variant's training", training])
        clone.change(**{"variants.vae.beta": 1.0})
        rows.append(["restored from the cache", clone.time(*PARALLEL)])
        rows.append(["cold, dvc repro --force", clone.time(*SEQUENTIAL, "--force")])
    title = "(d) The DAG on digits, one seed"
    return [
        Table(
            title,
            "Seconds of the whole command, in a fresh clone. A cold run has no earlier results.",
            {"": 0, "seconds": 1},
            rows,
        ),
        Table(
            "(d) Time of each stage",
            "Seconds of each stage in the cold run with stages side by side. Imports are the CPU seconds from the "
            "start of the process to the first line of the stage's work. The arithmetic includes validation. The rest "
            "of `train` is reading parameters and git, and writing results and figures. All work of `evaluate` is in "
            "“the rest”, and all work of the other stages is in “data”.",
            {"stage": 0, "imports": 1, "data": 1, "arithmetic": 1, "the rest": 1, "work altogether": 1},
            stages,
        ),
    ]


def _stages(clone: Clone) -> list[list[Value]]:
    variants = clone.parameters()["variants"]
    names = {"download": "download", "noise": "noise", "classify": "classify"}
    names |= {f"corrupt@{name}": f"corrupt/{name}" for name in clone.parameters()["corruption"]["train"]}
    names |= {f"train@{name}": f"train/{name}/training" for name in variants}
    names |= {f"evaluate@{name}": f"evaluate/{name}" for name in variants}
    rows: list[list[Value]] = []
    for stage, name in names.items():
        noted = clone.provenance(name)
        spent = [seed["seconds"] for seed in noted.get("seeds", {}).values()]
        data = (
            sum(each["data"] for each in spent) if spent else 0.0 if stage.startswith("evaluate") else noted["seconds"]
        )
        arithmetic = sum(each["training"] + each["validation"] for each in spent) if spent else 0.0
        rest = noted["seconds"] - data - arithmetic
        rows.append([stage, noted["import_seconds"], data, arithmetic, rest, noted["seconds"]])
    return rows
