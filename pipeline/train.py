"""train@variant: train every seed of one variant; write its weights, histories and outcomes."""

import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import typer
from safetensors.torch import load_file
from torch import Tensor

from autoencoders import checkpoint, devices, training
from pipeline import paths, stage
from pipeline.params import Params


def main(variant: str) -> None:
    """Train VARIANT, an entry of `variants` in params.yaml; the name of its stage, train@VARIANT, does too."""
    variant = variant.rpartition("@")[2]

    def work(params: Params, provenance: stage.Provenance) -> None:
        device = devices.prepare(params.training.device)
        provenance |= {"device": device.type, "hardware": devices.describe(device)}
        provenance |= {"precision": params.training.precision}
        folder = {"clean": paths.CLEAN, "corrupted": paths.CORRUPTED}[params.variant(variant).inputs]
        train, validation = (_pairs(split, folder, device) for split in ("train", "validation"))
        provenance["seeds"] = {seed: _train(params, variant, seed, train, validation) for seed in params.seeds}

    stage.run(work, paths.PROVENANCE / "train" / f"{variant}.json")


def _train(
    params: Params, variant: str, seed: int, train: training.Pairs, validation: training.Pairs
) -> dict[str, Any]:
    """Train one seed through all its phases and write it down; returns what the training cost."""
    device = train.targets.device
    section = params.variant(variant)
    torch.manual_seed(seed)
    model = checkpoint.build(variant, training.shape_of(train), section.arguments()).to(device)
    model.start_from(training.as_float(train.targets[:1000]))
    started, costs, histories, outcome = time.time(), {}, [], {}
    for phase in model.phases():
        model.eval()
        result = training.fit(
            phase.module,
            training.represent(phase, train),
            training.represent(phase, validation),
            params.budget(section.training, phase.training),
            seed=seed,
            precision=params.training.precision,
            label=f"{variant}-seed{seed} {phase.name}",
        )
        histories.append(pd.DataFrame(result.history).assign(phase=phase.name))
        costs[phase.name] = {"seconds": result.seconds, "images_per_second": result.images / result.seconds}
        outcome[phase.name] = {"best_epoch": result.best_epoch, "diverged_in_epoch": result.diverged_in_epoch}
        if result.diverged_in_epoch:
            print(f"{variant}-seed{seed}: the {phase.name} diverged in epoch {result.diverged_in_epoch}", flush=True)
            break
    folder = paths.MODELS / variant
    checkpoint.save(model, variant, section.arguments(), folder / f"seed{seed}.safetensors")
    pd.concat(histories).set_index(["phase", "epoch"]).to_csv(folder / f"seed{seed}.csv")
    stage.write_json(folder / f"seed{seed}.json", outcome)
    memory = devices.peak_memory(device)
    return {"started": started, "ended": time.time(), "phases": costs, "peak_memory_mib": round(memory)}


def _pairs(split: str, folder: Path, device: torch.device) -> training.Pairs:
    """What the model sees of a split and what it is to give back; one and the same tensor if it sees clean images."""

    def images(parent: Path) -> Tensor:
        return load_file(parent / f"{split}.safetensors")["images"].to(device)

    targets = images(paths.CLEAN)
    return training.Pairs(targets if folder == paths.CLEAN else images(folder), targets)


if __name__ == "__main__":
    typer.run(main)
