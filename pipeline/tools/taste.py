"""taste: run the whole pipeline in about a minute on scikit-learn's digits, which need no download.

    python -m pipeline.tools.taste                       # the last commit
    python -m pipeline.tools.taste --base origin/main    # compare the last commit with another revision

The run uses a clone in the folder `taste/`, so the project's own parameters and results stay unchanged.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from aelab.core.errors import UserError
from pipeline.common import paths
from pipeline.common.params import PARAMS
from pipeline.tools.recipe import committed, merged, shortened

TASTE = Path("taste")
COMPARISON = TASTE / "comparison.html"
LIMITS = {"steps": 300, "samples": 500}  # upper limits for these keys, at any depth of params.yaml
SEEDS = [0]
COMPARED = [0, 1, 2]  # seeds of a comparison; an interval of a difference needs several seeds


def main(
    *,
    base: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="A revision to run, too, and to compare with the last commit."),
    ] = None,
) -> None:
    """Run the last commit's pipeline on the digits, with few steps. --base adds a second revision and a comparison."""
    try:
        if base is None:
            _run("HEAD", SEEDS)
            page = TASTE / paths.REPORTS / "comparison.html"
        else:
            page = _compared(base)
    except UserError as error:
        sys.exit(f"\n{error}\n")
    print(f"\nDigits, few steps. The report: {page.resolve().as_uri()}")


def _compared(base: str) -> Path:
    """Write the page that compares the last commit with the revision `base`, and return the page's path.

    The tables of the page are also written as Markdown and CSV, to the same folder.
    """
    for name, revision in {"base": base, "head": "HEAD"}.items():
        _run(revision, COMPARED)
        identity = ["-c", "user.name=taste", "-c", "user.email=taste@localhost"]
        _git(*identity, "commit", "--quiet", "--allow-empty", "--all", "--message", f"the digits at {revision}")
        _git("update-ref", f"refs/tags/{name}", "HEAD")
    command = ["-m", "pipeline.tools.compare", "base", "head", "--force", COMPARISON.name]
    done = subprocess.run([sys.executable, *command], cwd=TASTE, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(done.returncode)
    print(f"\n{done.stdout}")
    said = f"The digits, {len(COMPARED)} seeds, few steps: `base` is {base}, `head` the last commit.\n\n{done.stdout}"
    COMPARISON.with_suffix(".md").write_text(said, encoding="utf-8")
    return COMPARISON


def _run(revision: str, seeds: list[int]) -> None:
    """Run the pipeline in the clone, with the code and the reduced parameters of a revision. Exit if the run fails."""
    parameters = _parameters(revision, seeds)
    if not TASTE.exists():
        subprocess.run(["git", "clone", "--quiet", ".", TASTE], check=True)  # noqa: S603, S607
    commit = subprocess.run(["git", "rev-parse", revision], check=True, capture_output=True, text=True)  # noqa: S603, S607
    _git("fetch", "--quiet", "origin", commit.stdout.strip())
    _git("checkout", "--quiet", "--force", "FETCH_HEAD")
    with (TASTE / PARAMS).open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(parameters, file)
    done = subprocess.run([sys.executable, "-m", "pipeline.runner.repro"], cwd=TASTE, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _parameters(revision: str, seeds: list[int]) -> dict[str, Any]:
    """Return the parameters of a revision, with a few steps on the digits instead of the full training."""
    return merged(shortened(committed(revision), LIMITS), {"dataset": {"name": "digits"}, "seeds": seeds})


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=TASTE, check=True)  # noqa: S603, S607


if __name__ == "__main__":
    typer.run(main)
