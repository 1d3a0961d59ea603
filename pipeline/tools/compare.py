"""compare: the report's page of two revisions or experiments beside each other, with what became different.

No stage: nothing depends on it. What DVC has of a revision in its cache is enough: nothing is trained or checked out.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from aelab.core.errors import UserError
from aelab.report import pages
from pipeline.common import params, paths
from pipeline.reporting import report_entries, results
from pipeline.reporting.results import ReportEntry

WORKSPACE = "workspace"  # what lies on disk
NEEDED = ("params.yaml", "dvc.lock", "models", "evaluation", "provenance", "classifier")


def main(
    before: Annotated[str, typer.Argument(help="A commit, branch, tag or DVC experiment.")],
    after: Annotated[str, typer.Argument(help=f"Another one, or `{WORKSPACE}`: what lies on disk.")],
    written: Annotated[Path, typer.Argument(metavar="PAGE", help="The page to write.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Write over a page that is there.")] = False,
) -> None:
    """Set the entries of two revisions beside each other on one page, and say what became different.

    What a setting did, as an experiment:

        dvc exp run -S variants.vae.beta=4 -n beta4

        python -m pipeline.tools.compare HEAD beta4 beta4.html
    """
    try:
        _write(before, after, written, force=force)
    except UserError as error:
        sys.exit(str(error))
    print(f"{written}: {before} beside {after}")


def _write(before: str, after: str, written: Path, *, force: bool) -> None:
    if written.exists() and not force:
        msg = f"{written} is there already: --force writes over it"
        raise UserError(msg)
    if not written.parent.is_dir():
        msg = f"{written}: there is no folder {written.parent} to write it to"
        raise UserError(msg)
    with TemporaryDirectory() as place:
        one, other = (_entries(revision, Path(place, str(i))) for i, revision in enumerate((before, after)))
        entries, pairs = paired(one, other, before, after)
        with chdir(Path(place, "1")):
            context = report_entries.context(entries, results.rows(entries), Path("figures"), pairs)
            text = pages.render("comparison.html.j2", context | {"title": f"{before} beside {after}"})
    written.write_text(text, encoding="utf-8")


def paired(
    one: Sequence[ReportEntry], other: Sequence[ReportEntry], before: str, after: str
) -> tuple[list[ReportEntry], list[tuple[str, str]]]:
    """All entries, those of one name together, and such pairs; what gave the same results is there once."""
    mine, theirs = ({entry.name: entry for entry in entries} for entries in (one, other))
    entries, pairs = list[ReportEntry](), list[tuple[str, str]]()
    for name in dict.fromkeys([*theirs, *mine]):
        found = [(whose, each[name]) for whose, each in ((before, mine), (after, theirs)) if name in each]
        if len({tuple(result.fingerprint for result in entry.results) for _, entry in found}) < len(found):
            entries.append(theirs[name])
            continue
        renamed = [replace(entry, name=f"{name}@{whose}") for whose, entry in found]
        entries += renamed
        if len(renamed) > 1:
            pairs.append((renamed[0].name, renamed[1].name))
    return entries, pairs


def _entries(revision: str, place: Path) -> list[ReportEntry]:
    """The entries of a revision, from copies of its files in `place`."""
    _take(revision, place)
    with chdir(place):
        found = results.collect(params.load(variants=False))
    return [
        replace(entry, results=[replace(result, folder=place / result.folder) for result in entry.results])
        for entry in found
    ]


def _take(revision: str, place: Path) -> None:
    from dvc.api import DVCFileSystem  # noqa: PLC0415 - slow to import
    from dvc.exceptions import DvcException  # noqa: PLC0415
    from scmrepo.exceptions import SCMError  # noqa: PLC0415

    place.mkdir()
    try:
        files = DVCFileSystem(str(paths.root()), rev=None if revision == WORKSPACE else revision)
        for name in NEEDED:
            files.get(name, os.fspath(place / name), recursive=name.partition(".")[1] == "")
    except (SCMError, DvcException) as error:
        msg = f"{revision} is no revision or experiment that is known here: {error}"
        raise UserError(msg) from error
    except FileNotFoundError as error:
        msg = f"DVC's cache has not all results of {revision}: `dvc pull`, or run it again ({error})"
        raise UserError(msg) from error


if __name__ == "__main__":
    typer.run(main)
