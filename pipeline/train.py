"""train@variant: train every seed of one variant; write its weights, histories and outcomes."""

import time
from pathlib import Path
from typing import Any

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
        how = params.training
        device = devices.prepare(how.device, how.threads)
        provenance |= {"device": device.type, "hardware": devices.describe(device), "precision": how.precision}
        provenance |= {"mode": how.mode if device.type == "cuda" else "eager"}
        provenance["seeds"] = stage.for_each_seed(train, params, variant)

    stage.run(work, paths.PROVENANCE / "train" / f"{variant}.json")


def train(params: Params, variant: str, seed: int) -> dict[str, Any]:
    """Train one seed through all its phases and write it down; returns what the training cost."""
    started = time.time()
    section, how = params.variant(variant), params.training
    device = devices.prepare(how.device, how.threads)
    folder = {"clean": paths.CLEAN, "corrupted": paths.CORRUPTED}[section.inputs]
    train, validation = (_pairs(split, folder, device) for split in ("train", "validation"))
    took = {"data": time.time() - started, "training": 0.0, "validation": 0.0}
    torch.manual_seed(seed)
    model = checkpoint.build(variant, training.shape_of(train), section.arguments()).to(device)
    model.start_from(training.as_float(train.targets[:1000]))
    costs, histories, outcome = {}, [], {}
    for phase in model.phases():
        model.eval()
        result = training.fit(
            phase.module,
            training.represent(phase, train),
            training.represent(phase, validation),
            params.budget(section.training, phase.training),
            seed=seed,
            precision=how.precision,
            mode=how.mode,
            label=f"{variant}-seed{seed} {phase.name}",
        )
        took["training"] += result.seconds
        took["validation"] += result.validation_seconds
        histories += [{"phase": phase.name, **epoch} for epoch in result.history]
        costs[phase.name] = {"seconds": result.seconds, "images_per_second": result.images / result.seconds}
        outcome[phase.name] = {"best_epoch": result.best_epoch, "diverged_in_epoch": result.diverged_in_epoch}
        if result.diverged_in_epoch:
            print(f"{variant}-seed{seed}: the {phase.name} diverged in epoch {result.diverged_in_epoch}", flush=True)
            break
    results = paths.MODELS / variant
    checkpoint.save(model, variant, section.arguments(), results / f"seed{seed}.safetensors")
    stage.write_csv(histories, results / f"seed{seed}.csv")
    stage.write_json(results / f"seed{seed}.json", outcome)
    memory = devices.peak_memory(device)
    times = {"started": started, "ended": time.time(), "seconds": took}
    return times | {"phases": costs, "peak_memory_mib": round(memory)}


def _pairs(split: str, folder: Path, device: torch.device) -> training.Pairs:
    """What the model sees of a split and what it is to give back; one and the same tensor if it sees clean images."""

    def images(parent: Path) -> Tensor:
        return load_file(parent / f"{split}.safetensors")["images"].to(device)

    targets = images(paths.CLEAN)
    return training.Pairs(targets if folder == paths.CLEAN else images(folder), targets)


if __name__ == "__main__":
    typer.run(main)
