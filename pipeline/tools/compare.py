"""compare: write one report on the results of several git revisions or DVC experiments, with a table of metrics.

An entry is a model with its settings in params.yaml. The command compares the entries of all revisions. The results of
each revision must be in DVC's cache, because the command trains nothing. Files in the working folder stay unchanged.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TypeAlias

import pandas as pd
import typer

from aelab.core.errors import UserError
from aelab.report import pages
from aelab.report.evidence import Entry, Evidence
from aelab.report.metrics import DECIDING, HEADLINE, metric
from aelab.report.tables import cell, flattened, heading, listed, spreadsheet
from pipeline.common import params, paths
from pipeline.reporting import report_entries, results
from pipeline.reporting.results import ReportEntry

WORKSPACE = "workspace"  # stands for the results on disk, in place of a revision
# Files and folders of a revision from which the report is made.
NEEDED = ("params.yaml", "dvc.lock", "models", "evaluation", "provenance", "classifier")
LONGEST = 40  # maximum number of characters of an entry's new name, which charts and folders show
LONGEST_TITLE = 160  # maximum number of characters of the page's title

Revisions: TypeAlias = Mapping[str, Sequence[ReportEntry]]


def main(
    *,
    revisions: Annotated[
        list[str] | None,
        typer.Argument(help=f"Commits, branches, tags, DVC experiments, or `{WORKSPACE}`: the results on disk."),
    ] = None,
    page: Annotated[
        Path, typer.Argument(metavar="PAGE", help="HTML page to write; a CSV file is put beside the page.")
    ],
    experiments: Annotated[bool, typer.Option("--experiments", help="Add HEAD and all experiments on HEAD.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing page and table.")] = False,
) -> None:
    """Compare the entries of several revisions on one page, and report the differences.

    Compare an experiment with the last commit:

        dvc exp run --temp -S variants.vae.beta=4 -n beta4

        python -m pipeline.tools.compare HEAD beta4 beta4.html

    Compare all experiments of a sweep:

        python -m pipeline.tools.compare --experiments sweep.html
    """
    try:
        _write(revisions or [], page, experiments=experiments, force=force)
    except UserError as error:
        sys.exit(str(error))


def _write(revisions: Sequence[str], page: Path, *, experiments: bool, force: bool) -> None:
    table = page.with_suffix(".csv")
    for path in (page, table):
        if path.exists() and not force:
            msg = f"{path} exists already: --force overwrites it"
            raise UserError(msg)
    if page.suffix != ".html":
        msg = f"{page}: the last argument is the page to write, which ends in .html"
        raise UserError(msg)
    if not page.parent.is_dir():
        msg = f"{page}: there is no folder {page.parent} to write it to"
        raise UserError(msg)
    wanted = list(dict.fromkeys([*revisions, *(_experiments() if experiments else ())]))
    if not wanted:
        msg = "name revisions or experiments, or use --experiments for all experiments on HEAD"
        raise UserError(msg)
    with TemporaryDirectory() as place:
        found = dict(_found(wanted, Path(place), needed=revisions))
        shown, pairs = side_by_side(found)
        entries = [each.entry for each in shown]
        rows = results.rows(entries)
        with chdir(Path(place, str(wanted.index(next(iter(found)))))):
            context = report_entries.context(entries, rows, Path("figures"), pairs)
            lead = _origins(shown, list(found)) if len(found) > 1 else context["lead"]
            said = context | {"title": title(shown, list(found)), "lead": lead}
            text = pages.render("comparison.html.j2", said)
    page.write_text(text, encoding="utf-8")
    numbers(shown, context["evidence"]).to_csv(table, index=False, na_rep="n/a")
    print(markdown(shown, context["evidence"]))
    print(
        f"\nThe numbers are from the validation split, which selects settings. All metrics: {page}; this table: {table}"
    )


# --- which entries are compared ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ComparedEntry:
    """An entry with its results, under a new name, which states the parameters that differ between entries."""

    entry: ReportEntry
    original: str  # the entry's name in params.yaml
    revisions: list[str]  # revisions in which the entry has these results
    differs: dict[str, Any]  # values of the differing parameters, by dotted key such as training.steps


def side_by_side(revisions: Revisions) -> tuple[list[ComparedEntry], list[tuple[str, str]]]:
    """Return the entries of all revisions, and the pairs of entries to compare, by their new names.

    Entries with the same name in `params.yaml` form a group. In each group, the entry of the first revision is compared
    with every other entry. If several revisions have equal results, their entry appears once. Floors, which are
    baselines without training, come last.

    The new name of an entry states the parameters that differ within the group. If this text is too long, the new name
    states the revision instead. If two entries have equal parameters, the new name states parameters and revision.
    """
    shown, pairs = list[ComparedEntry](), list[tuple[str, str]]()
    for name in dict.fromkeys(entry.name for entries in revisions.values() for entry in entries):
        distinct: dict[str, tuple[ReportEntry, list[str]]] = {}
        for revision, entries in revisions.items():
            for entry in entries:
                if entry.name == name:
                    gave = json.dumps([result.gave for result in entry.results])
                    distinct.setdefault(gave, (entry, []))[1].append(revision)
        family = list(_named(name, list(distinct.values())))
        pairs += [(family[0].entry.name, other.entry.name) for other in family[1:]]
        shown += sorted(family, key=lambda each: [_rank(value) for value in each.differs.values()])
    return sorted(shown, key=lambda each: each.entry.floor), pairs


def _named(name: str, found: Sequence[tuple[ReportEntry, list[str]]]) -> Iterator[ComparedEntry]:
    """Yield the entries with the name `name` in params.yaml, each under its new name."""
    values = [_parameters(entry) for entry, _ in found]
    keys = dict.fromkeys(key for each in values for key in each)
    differing = [key for key in keys if len({_text(each.get(key)) for each in values}) > 1]
    if "inputs" in differing:  # the name of a corruption already identifies its parameters
        differing = [key for key in differing if not key.startswith("corruption.train.")]
    short = {key: _short(key, differing) for key in differing}
    labels = [" ".join([name, *(f"{short[key]}={_text(each.get(key))}" for key in differing)]) for each in values]
    for (entry, revisions), each, label in zip(found, values, labels, strict=True):
        stem = label if len(label) <= LONGEST else name
        own = stem if stem == label and labels.count(label) == 1 else f"{stem}@{revisions[0]}"
        own = own.replace("/", "∕")  # the name also becomes the name of a folder
        yield ComparedEntry(replace(entry, name=own), name, revisions, {key: each.get(key) for key in differing})


def _parameters(entry: ReportEntry) -> dict[str, Any]:
    """Return the parameters on which an entry's results depend, by dotted key.

    The entry's own values, such as training.steps, replace the values that all entries share.
    """
    common = entry.params.model_dump(exclude={"variants"})
    folders = common["dataset"].pop("folders")
    common["dataset"]["folder"] = folders.get(common["dataset"]["name"], {})
    inputs = entry.section["inputs"]
    common["corruption"]["train"] = {key: each for key, each in common["corruption"]["train"].items() if key == inputs}
    return dict(flattened(common)) | dict(flattened(entry.section))


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the shortest ending of a dotted key that no other key in `keys` has, such as steps for training.steps."""
    words = key.split(".")
    ends = (".".join(words[i:]) for i in reversed(range(len(words))))
    return next((end for end in ends if sum(f".{each}".endswith(f".{end}") for each in keys) == 1), key)


def _text(value: Any) -> str:
    """Return a value as text. Both 1 and 1.0 become "1", because revisions may write the same value differently."""
    whole = isinstance(value, float) and value.is_integer()
    return "–" if value is None else str(int(value) if whole else value)


def _rank(value: Any) -> tuple[bool, float, str]:
    """Return a sort key of a value: numbers come first, by size, then texts, in alphabetical order."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def title(shown: Sequence[ComparedEntry], revisions: Sequence[str]) -> str:
    """Return the title of the page: the parameters that differ, as in "vae: beta = 0.5, 1, 4".

    If no parameter differs, or if this text is too long, the title is a list of the revisions.
    """
    swept: dict[str, list[str]] = {}
    for name in dict.fromkeys(each.original for each in shown):
        family = [each.differs for each in shown if each.original == name]
        for key in family[0]:
            values = dict.fromkeys(_text(each[key]) for each in sorted(family, key=lambda each: _rank(each[key])))
            swept.setdefault(f"{key} = {', '.join(values)}", []).append(name)
    by_names: dict[str, list[str]] = {}
    for sweep, names in swept.items():
        by_names.setdefault(listed(names), []).append(sweep)
    told = "; ".join(f"{names}: {', '.join(sweeps)}" for names, sweeps in by_names.items())
    return told if 0 < len(told) <= LONGEST_TITLE else listed(revisions)


def _origins(shown: Sequence[ComparedEntry], revisions: Sequence[str]) -> str:
    """Return a sentence that names all revisions.

    For each entry that some revisions lack, the sentence also names the revisions that have the entry.
    """
    own = [f"{each.entry.name} is from {listed(each.revisions)}" for each in shown if each.revisions != revisions]
    return f"Revisions: {'; '.join([listed(revisions), *own])}."


# --- the table --------------------------------------------------------------------------------------------------------


def numbers(shown: Sequence[ComparedEntry], evidence: Evidence) -> pd.DataFrame:
    """Return a row for each entry: its revisions, its differing parameters and the headline metrics of both splits.

    A metric has two columns: the mean over seeds, and the half-width of the mean's 95 % interval. On the test split,
    the interval also covers the random choice of test images.
    """
    made = []
    for each in shown:
        values = {key: spreadsheet(_text(value)) for key, value in each.differs.items()}
        row: dict[str, Any] = {"entry": each.original, "revisions": spreadsheet(", ".join(each.revisions)), **values}
        for name in (*(f"validation_{name}" for name in HEADLINE), *HEADLINE):
            spread = evidence.mean(_entry(each, evidence), name)
            row |= {name: spread.mean, f"{name} ±": spread.half}
        made.append(row)
    first = ["entry", "revisions", *dict.fromkeys(key for each in shown for key in each.differs)]
    frame = pd.DataFrame(made)
    return frame[[*first, *(column for column in frame if column not in first)]].dropna(axis="columns", how="all")


def markdown(shown: Sequence[ComparedEntry], evidence: Evidence) -> str:
    """Return the main metrics on the validation split, as a Markdown table for the terminal."""
    keys = dict.fromkeys(key for each in shown for key in each.differs)
    every = {revision for each in shown for revision in each.revisions}
    names = [name for name in DECIDING if evidence.having(f"validation_{name}")]
    lines = [["entry", *keys, *(heading(metric(name)) for name in names), "revisions"]]
    for each in shown:
        measured = [evidence.mean(_entry(each, evidence), f"validation_{name}") for name in names]
        cells = [cell(spread, metric(name).digits) for name, spread in zip(names, measured, strict=True)]
        values = [_text(each.differs[key]) if key in each.differs else "" for key in keys]
        revisions = "all" if set(each.revisions) == every else ", ".join(each.revisions)
        lines.append([each.original, *values, *(each.replace("nan", "n/a") for each in cells), revisions])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def _entry(each: ComparedEntry, evidence: Evidence) -> Entry:
    return next(entry for entry in evidence.entries if entry.name == each.entry.name)


# --- revisions --------------------------------------------------------------------------------------------------------


def _experiments() -> list[str]:
    """Return HEAD and the names of the experiments that started from HEAD."""
    from dvc.exceptions import DvcException  # noqa: PLC0415 - slow to import
    from dvc.repo import Repo  # noqa: PLC0415
    from scmrepo.exceptions import SCMError  # noqa: PLC0415

    try:
        with Repo(str(paths.root())) as repo:
            found = repo.experiments.ls()
    except (SCMError, DvcException) as error:
        raise UserError(str(error)) from error
    names = sorted(str(name) for each in found.values() for name, *_ in each)
    if not names:
        msg = "there are no experiments on HEAD: `dvc exp list --all-commits` lists the experiments of other commits"
        raise UserError(msg)
    return ["HEAD", *names]


def _found(wanted: Sequence[str], place: Path, needed: Sequence[str]) -> Iterator[tuple[str, list[ReportEntry]]]:
    """Yield each revision in `wanted` with its entries.

    A revision without results is skipped, unless `needed` contains this revision. The user has named all revisions in
    `needed`.

    Raises:
        UserError: a revision in `needed` has no results, or no revision has results.
    """
    there = False
    for i, revision in enumerate(wanted):
        try:
            found = _entries(revision, place / str(i))
        except UserError as error:
            if revision in needed or (revision == wanted[-1] and not there):
                raise
            print(f"left out: {error}", file=sys.stderr)
        else:
            there = True
            yield revision, found


def _entries(revision: str, place: Path) -> list[ReportEntry]:
    """Copy the files of a revision to the new folder `place`, and return the revision's entries."""
    _take(revision, place)
    try:
        with chdir(place):
            found = results.collect(params.load(variants=False, aliases=True))
    except UserError as error:
        msg = f"{revision}: {error}"
        raise UserError(msg) from error
    return [
        replace(entry, results=[replace(result, folder=place / result.folder) for result in entry.results])
        for entry in found
    ]


def _take(revision: str, place: Path) -> None:
    """Copy the parameters and results of a revision to the new folder `place`."""
    from dvc.api import DVCFileSystem  # noqa: PLC0415 - slow to import
    from dvc.exceptions import DvcException  # noqa: PLC0415
    from dvc_data.index import DataIndexDirError  # noqa: PLC0415
    from scmrepo.exceptions import SCMError  # noqa: PLC0415

    place.mkdir()
    try:
        files = DVCFileSystem(str(paths.root()), rev=None if revision == WORKSPACE else revision)
        for name in NEEDED:
            files.get(name, os.fspath(place / name), recursive=name.partition(".")[1] == "")
    except (SCMError, DvcException) as error:
        msg = f"{revision} is not a known revision or experiment: {error}"
        raise UserError(msg) from error
    except (FileNotFoundError, DataIndexDirError) as error:
        msg = f"DVC's cache lacks some results of {revision}: run `dvc pull`, or run the revision again ({error})"
        raise UserError(msg) from error


if __name__ == "__main__":
    typer.run(main)
