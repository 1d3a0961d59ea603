"""corrupt: write the corrupted copies, those that denoising variants learn from and those that all are tested on."""

import numpy as np
import typer
from safetensors.numpy import load_file

from autoencoders.corruption import corrupt
from autoencoders.data import Bytes, save_split
from pipeline import paths, stage
from pipeline.params import Params


def work(params: Params, provenance: stage.Provenance) -> None:  # noqa: ARG001
    """Write the copies of every split."""
    noise = params.corruption
    seed, kind, level = noise.seed, noise.train.kind, noise.train.level

    def images(split: str) -> Bytes:
        return load_file(paths.CLEAN / f"{split}.safetensors")["images"]

    for split, copies in (("train", noise.train.copies), ("validation", 1)):
        clean = images(split)
        corrupted = [corrupt(clean, kind, level, seed=seed, name=f"{split}-{copy}") for copy in range(copies)]
        save_split({"images": np.concatenate(corrupted)}, paths.CORRUPTED / f"{split}.safetensors")

    levels = {(kind, level)} | {(k, each) for k, several in noise.test.items() for each in several}
    test = images("test")
    noisy = {f"{k}-{each}": corrupt(test, k, each, seed=seed, name="test") for k, each in sorted(levels)}
    save_split(noisy, paths.NOISY / "test.safetensors")


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, paths.PROVENANCE / "corrupt.json"))
