"""noise: write corrupted copies of the validation and test images, on which all models are tested."""

import typer

from aelab.core import arrays, disk
from aelab.core.progress import part
from aelab.data.corruption import mixture
from pipeline.common import paths, stage
from pipeline.common.params import Params


def work(params: Params, provenance: stage.Provenance) -> None:  # noqa: ARG001
    """Write the validation images with the reference corruption, and the test images with each tested corruption."""
    noise = params.corruption
    reference = noise.reference.kind, noise.reference.level
    for split, corruptions in (("validation", [reference]), ("test", sorted(noise.tested))):
        disk.check(paths.CLEAN / split)
        clean = arrays.read(paths.images(paths.CLEAN, split))
        for kind, level in corruptions:
            copy = mixture(clean, [(kind, level)], seed=noise.seed, name=split)
            with part(f"{kind}-{level}, {split} split"):
                arrays.write(paths.noisy(f"{kind}-{level}", split), clean.shape, copy)
        disk.seal(paths.NOISY / split)


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, paths.PROVENANCE / "noise.json"))
