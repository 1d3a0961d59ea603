"""corrupt@name: write corrupted training and validation images for the models with `inputs: name` in params.yaml."""

import typer

from aelab.core import arrays, disk
from aelab.core.progress import part
from aelab.data.corruption import mixture
from pipeline.common import paths, stage
from pipeline.common.images import seen
from pipeline.common.params import Params


def main(name: str) -> None:
    """Write corrupted copies of the training and validation images.

    NAME is a key of `corruption.train` in params.yaml, or the name of the stage, such as corrupt@masked.
    """
    name = name.rpartition("@")[2]

    def work(params: Params, provenance: stage.Provenance) -> None:  # noqa: ARG001
        corruption = params.learned(name)
        for split, copies in (("train", corruption.copies), ("validation", 1)):
            disk.check(paths.CLEAN / split)
            clean = seen(params, split)
            pieces = (
                piece
                for copy in range(copies)
                for piece in mixture(clean, corruption.mixed, seed=params.corruption.seed, name=f"{split}-{copy}")
            )
            folder = paths.inputs(name)
            with part(f"{name}, {split} split"):
                arrays.write(paths.images(folder, split), (copies * len(clean), *clean.shape[1:]), pieces)
            disk.seal(folder / split)

    stage.run(work, paths.PROVENANCE / "corrupt" / f"{name}.json")


if __name__ == "__main__":
    typer.run(main)
