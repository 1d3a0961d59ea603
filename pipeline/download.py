"""download: fetch the data set, verify it, hold out a validation split, write one packed tensor file per split."""

import typer

from autoencoders import data
from pipeline import paths, stage
from pipeline.params import Params


def work(params: Params, provenance: stage.Provenance) -> None:
    """Write the splits; the source that delivered the data goes into the provenance."""
    name = params.dataset.name
    files, provenance["source"] = data.fetch(name, paths.RAW / name)
    print(f"{name}: from {provenance['source']}, verified")
    everything, test = data.DATASETS[name].parse(files)
    train, validation = data.hold_out(everything, params.dataset.validation, params.dataset.seed)
    for split, content in (("train", train), ("validation", validation), ("test", test)):
        data.save_split(content, paths.CLEAN / f"{split}.safetensors")


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, paths.PROVENANCE / "download.json"))
