"""corrupt: write the corrupted copies, those that denoising entries learn from and those that all are tested on."""

import typer

from autoencoders import storage
from autoencoders.corruption import corrupted
from pipeline import paths, stage
from pipeline.params import Params


def work(params: Params, provenance: stage.Provenance) -> None:  # noqa: ARG001
    """Write the copies of every split."""
    for split in ("train", "validation", "test"):
        storage.check(paths.CLEAN / split)
    noise = params.corruption
    seed, kind, level = noise.seed, noise.train.kind, noise.train.level
    for split, copies in (("train", noise.train.copies), ("validation", 1)):
        clean = storage.read(paths.images(paths.CLEAN, split))
        names = [f"{split}-{copy}" for copy in range(copies)]
        pieces = (piece for name in names for piece in corrupted(clean, kind, level, seed=seed, name=name))
        storage.write(paths.images(paths.CORRUPTED, split), (copies * len(clean), *clean.shape[1:]), pieces)
        storage.seal(paths.CORRUPTED / split)

    test = storage.read(paths.images(paths.CLEAN, "test"))
    for each_kind, each_level in sorted(noise.tested):
        noisy = corrupted(test, each_kind, each_level, seed=seed, name="test")
        storage.write(paths.noisy(f"{each_kind}-{each_level}"), test.shape, noisy)
    storage.seal(paths.NOISY)


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, paths.PROVENANCE / "corrupt.json"))
