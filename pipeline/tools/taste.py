"""A taste: all of the pipeline in about a minute, on scikit-learn's digits, which need no download.

It runs in a clone of the last commit, the folder `taste/`: the project's own parameters and results stay as they are.
"""

import subprocess
import sys
from pathlib import Path

import typer
from ruamel.yaml import YAML

from aelab.core.errors import UserError
from pipeline.common import paths
from pipeline.common.params import PARAMS
from pipeline.tools.recipe import committed, merged, shortened

TASTE = Path("taste")
LIMITS = {"steps": 300, "samples": 500}  # wherever these keys stand
CHANGES = {"dataset": {"name": "digits"}, "seeds": [0]}


def main() -> None:
    """Run the pipeline on the digits, with few steps and one seed."""
    try:
        parameters = merged(shortened(committed(), LIMITS), CHANGES)
    except UserError as error:
        sys.exit(f"\n{error}\n")
    if not TASTE.exists():
        subprocess.run(["git", "clone", "--quiet", ".", TASTE], check=True)  # noqa: S603, S607
    for command in (["fetch", "--quiet", "origin", "HEAD"], ["checkout", "--quiet", "--force", "FETCH_HEAD"]):
        subprocess.run(["git", *command], cwd=TASTE, check=True)  # noqa: S603, S607
    with (TASTE / PARAMS).open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(parameters, file)
    done = subprocess.run([sys.executable, "-m", "pipeline.runner.repro"], cwd=TASTE, check=False)
    print(f"\nDigits, one seed, few steps: {TASTE / paths.REPORTS / 'comparison.html'}")
    sys.exit(done.returncode)


if __name__ == "__main__":
    typer.run(main)
