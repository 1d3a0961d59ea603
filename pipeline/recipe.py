"""Run a recipe as a DVC experiment and say how the result stands against the published figure.

    python -m pipeline.recipe                       # the recipes: what they reproduce, and in what time
    python -m pipeline.recipe iwae-short            # the result goes to recipes/results/iwae-short.json
    python -m pipeline.recipe iwae-short --quick    # whether all of it runs, in a minute

The experiment runs in a copy of the repository: params.yaml, dvc.lock and the reports stay as they are, and `dvc exp
show` has it under the recipe's name. A recipe starts from the last commit's params.yaml: commit and recipe say all.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from autoencoders.errors import UserError
from pipeline import RUNNER, paths, recipes
from pipeline.params import FOLDER, PARAMS, read
from pipeline.recipes import Recipe

PATIENCE = 120.0  # minutes on a CPU, for which nobody has to be asked


def main(
    name: Annotated[str | None, typer.Argument(help="One of the recipes; without it they are listed.")] = None,
    *,
    quick: Annotated[bool, typer.Option(help="A few steps on the digits, to try the command; no verdict.")] = False,
    anyway: Annotated[bool, typer.Option(help="Run on a CPU what is meant for a GPU.")] = False,
    table: Annotated[bool, typer.Option(help="Make recipes/results.md anew, and run nothing.")] = False,
) -> None:
    """Run the recipe NAME and set its result beside the published figure."""
    try:
        if table:
            recipes.TABLE.write_text(recipes.page(), encoding="utf-8")
        elif name is None:
            _list()
        else:
            _run(name, quick=quick, anyway=anyway)
    except UserError as error:
        sys.exit(f"\n{error}\n")


def _list() -> None:
    base = committed()
    for name in recipes.available():
        try:
            recipe, _ = recipes.load(name, base)
        except UserError as error:
            print(f"{name}: cannot be run here\n{_indented(str(error))}\n")
            continue
        targets = ", ".join(f"{each.entry}: {each.target}" for each in recipe.expected)
        print(f"{name}: {recipe.title}\n{_indented(f'{recipe.paper}, {recipe.table}')}")
        print(f"{_indented(targets)}\n{_indented(str(recipe.minutes))}\n")
    print("Run one with: make recipe NAME=…")


def _run(name: str, *, quick: bool, anyway: bool) -> None:
    recipe, wanted = recipes.load(name, committed())
    print(f"{recipe.title}\n{recipe.paper}, {recipe.table}", *(f"differs: {each}" for each in recipe.differs), sep="\n")
    if quick:
        wanted = recipes.trial(wanted)
    else:
        _enough_time(name, recipe, anyway=anyway)
        _have_data(wanted["dataset"]["name"])
    rows = experiment(f"{name}-quick" if quick else name, wanted)
    if quick:
        result = recipes.outcome(name, recipe, wanted, rows)
        _print([row[:4] for row in recipes.cells(result)])
        print("A trial on the digits, of no value as a figure: all of the recipe runs.")
        return
    result = recipes.write(name, recipe, wanted, rows)
    _print(recipes.cells(result))
    print(f"{recipes.origin(result)}\nWritten to {recipes.RESULTS / name}.json and {recipes.TABLE}")


def committed() -> dict[str, Any]:
    """The parameters of the last commit, unchecked."""
    text = _git("show", f"HEAD:./{PARAMS}")
    if text is None:
        msg = f"git has no committed {PARAMS}: a recipe is an experiment, which starts from a commit"
        raise UserError(msg)
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return content


def _enough_time(name: str, recipe: Recipe, *, anyway: bool) -> None:
    """Stop where a recipe would keep a CPU busy for hours that a GPU does in minutes."""
    import torch  # noqa: PLC0415 - the parameters' check has imported it

    minutes = recipe.minutes.cpu
    if minutes and minutes > PATIENCE and not torch.cuda.is_available() and not anyway:
        msg = (
            f"{name} needs a GPU: here it would take about {recipes.duration(minutes)}; --anyway runs it all the same, "
            "--quick only tries the command"
        )
        raise UserError(msg)


def _have_data(dataset: str) -> None:
    """Fetch the data set to where all experiments find it, or stop with a sentence before one begins."""
    from autoencoders import downloads  # noqa: PLC0415 - not for a list

    if dataset != FOLDER:
        downloads.fetch(dataset, paths.raw() / dataset)


def experiment(name: str, wanted: Mapping[str, Any]) -> list[dict[str, str]]:
    """Run the DAG with the parameters `wanted` in a copy of the repository; returns the rows of its report's table.

    An earlier experiment of that name on this commit is replaced. What was trained before is not trained again.
    """
    head = (_git("rev-parse", "HEAD") or "").strip()
    reference = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    _git("update-ref", "-d", reference)
    changes = [word for each in recipes.overrides(read(PARAMS), wanted) for word in ("--set-param", each)]
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": "src",  # of the copy
        "PYTHONUNBUFFERED": "1",
        RUNNER: str(os.getpid()),  # the stages end with this process
    }
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp", "--name", name, *changes]
    with subprocess.Popen(command, env=os.environ | environment) as process:  # noqa: S603
        try:
            process.wait()
        except KeyboardInterrupt:  # it goes to DVC and the stages, too
            process.wait()
            sys.exit(130)
    text = _git("show", f"{reference}:./{paths.REPORTS}/comparison.csv")
    if process.returncode or text is None:
        msg = f"{name} did not come to its end, for the reason above; what was trained is kept for the next run"
        raise UserError(msg)
    return list(csv.DictReader(text.splitlines()))


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", check=False)  # noqa: S603, S607
    return None if done.returncode else done.stdout


def _print(rows: Sequence[Sequence[str]]) -> None:
    table = [recipes.HEADER[: len(rows[0])], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)
    print("", *lines, "", sep="\n")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


if __name__ == "__main__":
    typer.run(main)
