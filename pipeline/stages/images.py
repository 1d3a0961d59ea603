"""images@folder: list each file in a user's image folder with its SHA-256.

If the list changes, DVC runs the stage `download` again, which reads the images.
"""

import contextlib
from pathlib import Path

import typer

from aelab.core import disk
from aelab.core.errors import UserError
from aelab.core.progress import counted, part
from aelab.ingest import image_folder
from pipeline.common import paths, stage
from pipeline.common.params import Params


def main(name: str) -> None:
    """Write the list of the files in your image folder, with the SHA-256 of each file.

    NAME is a key of `dataset.folders` in params.yaml, or the name of the stage, such as images@photos.
    """
    name = name.rpartition("@")[2]
    stage.run(lambda params, _: work(params, name), None, variants=False)


def work(params: Params, name: str) -> None:
    """Write the list of the files in the folder `name`. The list is empty if `dataset.name` names another data set."""
    chosen = params.dataset.folder if name == params.dataset.name else None
    with part("hashes of files"):
        hashes = _hashes(paths.own(chosen.path), f"dataset.folders.{name}.path", name) if chosen else {}
    disk.write_json(paths.FILE_LISTS / f"{name}.json", hashes)
    for path in paths.FILE_LISTS.glob("*.json"):  # delete lists of folders that params.yaml no longer has
        if path.stem not in params.dataset.folders:
            path.unlink()


def _hashes(root: Path, key: str, name: str) -> dict[str, str]:
    """Return the SHA-256 of each file in the folder `root`.

    The notes of the last run hold the size, modification time and hash of each file. A file with unchanged size and
    modification time keeps its hash. Only new and changed files are read.
    """
    try:
        files, _ = image_folder.listed(root)
    except UserError as problem:
        msg = f"{key}: {problem}; git does not copy images into a clone or a worktree"
        raise UserError(msg) from None
    notes = paths.raw() / f"{name}.hashes.json"  # shared by all experiments
    try:
        noted = disk.read_json(notes)
    except (OSError, ValueError):
        noted = {}
    fresh: dict[str, list[object]] = {}
    for file in counted(files):
        path, shown = root / file, image_folder.shown(file)
        try:
            state = [path.stat().st_size, path.stat().st_mtime_ns]
            known = noted.get(shown, [])
            fresh[shown] = [*state, known[-1] if known[:-1] == state else disk.digest(path)]
        except OSError:  # `download` leaves this file out and reports the reason
            fresh[shown] = [0, 0, "unreadable"]
    with contextlib.suppress(FileNotFoundError):  # another experiment may write these notes at the same time
        disk.write_atomically(notes, disk.as_json(fresh))
    return {file: str(digest) for file, (*_, digest) in fresh.items()}


if __name__ == "__main__":
    typer.run(main)
