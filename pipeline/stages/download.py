"""download: fetch a published data set or read the user's images, and write each split as arrays.

The provenance, a file beside the results, records the source of the data and the files that the stage left out.
"""

import dataclasses

import numpy as np
import typer

from aelab.core import arrays, disk
from aelab.core.errors import UserError
from aelab.core.progress import part
from aelab.data import datasets
from aelab.ingest import anomalies, downloads
from pipeline.common import paths, resources, stage
from pipeline.common.params import DatasetParams, FolderParams, Params

SHOWN = 20  # maximum number of left-out files that the stage prints; the provenance lists all left-out files


def work(params: Params, provenance: stage.Provenance) -> None:
    """Write the splits, and record the source of the data in the provenance."""
    from pipeline.common import memory  # noqa: PLC0415 - imports torch, which is slow

    try:
        memory.check_all(params)
    except UserError as problem:  # only a warning, since another machine may train; `train` checks again
        print("\n".join(f"warning: {line}" for line in str(problem).splitlines()), flush=True)
    wanted = params.dataset
    if wanted.folder is not None:
        loaded = _folder(wanted, wanted.folder, provenance)
    else:
        loaded = downloads.load(wanted.name, paths.raw(), validation=wanted.validation, seed=wanted.seed)
    strange = None
    if isinstance(wanted.anomalies, str):
        strange = downloads.load(wanted.anomalies, paths.raw(), validation=0).test
    elif wanted.anomalies:
        classes = provenance.get("classes", [])  # names of the classes, if the user's images have subfolders
        loaded, strange = anomalies.set_apart(loaded, wanted.anomalies, classes, "dataset.anomalies")
    if wanted.train_images is not None:
        loaded = loaded.thinned(wanted.train_images, "dataset.train_images")
    loaded = dataclasses.replace(loaded, binarised=wanted.binarised, seed=wanted.seed)
    provenance["source"] = loaded.source
    sizes = ", ".join(f"{len(rows):,} {split}" for split, (_, rows) in loaded.splits.items())
    print(f"{wanted.name}: from {loaded.source}; images: {sizes}")
    paths.ANOMALIES.unlink(missing_ok=True)  # a run without DVC may have left the file
    with part("writing"):
        loaded.save(paths.CLEAN)
        if strange is not None:
            print(f"anomalies: {len(strange):,} images of {wanted.anomalies}")
            _write_anomalies(wanted, strange)


def _write_anomalies(wanted: DatasetParams, strange: datasets.Bytes) -> None:
    """Write the anomalies beside the test images. If the test images are binarised, binarise the anomalies, too."""
    pieces = arrays.select(strange, np.arange(len(strange)))
    if "test" in wanted.binarised:
        pieces = datasets.binarise(pieces, wanted.seed, paths.ANOMALIES.stem)
    arrays.write(paths.ANOMALIES, strange.shape, pieces)
    disk.seal(paths.ANOMALIES.parent)


def _folder(wanted: DatasetParams, settings: FolderParams, provenance: stage.Provenance) -> datasets.Data:
    """Read and split the user's own images, and report the files that are left out."""
    from aelab.ingest import image_folder  # noqa: PLC0415 - imports Pillow, which only the user's images need

    key = f"dataset.folders.{wanted.name}"
    paths.raw().mkdir(parents=True, exist_ok=True)
    found = image_folder.read(
        paths.own(settings.path), wanted.image, fit=settings.fit, bits=settings.bits, key=f"{key}.bits",
        scratch=paths.raw(), workers=resources.cpus(),
    )  # fmt: skip
    counts = {name or "outside of subfolders": count for name, count in found.counts.items()}
    provenance |= {"left_out": {each.path: each.reason for each in found.left_out}, "classes": found.classes}
    print(f"{settings.path}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}")
    for note in found.notes:
        print(f"note: {note}")
    listed = "".join(f"\n  {each.path} {each.reason}" for each in found.left_out[:SHOWN])
    listed += f"\n  … and {len(found.left_out) - SHOWN} more" if len(found.left_out) > SHOWN else ""
    if listed:
        print(f"left out of {settings.path}:{listed}")
    broken = sum(each.broken for each in found.left_out)
    total = len(found.labels) + broken
    if broken > settings.broken * total:
        msg = (
            f"{broken} of the {total} images in {settings.path} cannot be used, a larger share than {key}.broken, "
            f"{settings.broken}, allows; remove these images or raise {key}.broken:{listed}"
        )
        raise UserError(msg)
    everything = datasets.Split(found.images, found.labels)
    source = f"folder {settings.path}"
    return datasets.divide(everything, source, validation=wanted.validation, test=settings.test, seed=wanted.seed)


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, paths.PROVENANCE / "download.json"))
