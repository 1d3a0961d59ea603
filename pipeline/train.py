"""train@entry: train every seed of one entry; write its weights, curves and outcomes."""

import tempfile
import time
from typing import Any

import typer

from autoencoders import checkpoint, devices, storage, training
from autoencoders.sources import Pairs
from pipeline import paths, stage
from pipeline.params import Params


def main(name: str) -> None:
    """Train NAME, an entry of `variants` in params.yaml. The name of its stage, train@NAME, means the same."""
    name = name.rpartition("@")[2]

    def work(params: Params, provenance: stage.Provenance) -> None:
        how = params.training
        device = devices.prepare(how.device, how.threads)
        provenance |= {"device": device.type, "hardware": devices.describe(device), "precision": how.precision}
        provenance |= {"mode": how.mode if device.type == "cuda" else "eager"}
        provenance["seeds"] = stage.for_each_seed(train, params, name, timed=True)

    stage.run(work, paths.training(name))


def train(params: Params, name: str, seed: int) -> dict[str, Any]:
    """Train one seed through all its phases and write it down; returns what the training cost."""
    started = time.time()
    entry, how = params.entry(name), params.training
    tempfile.tempdir = str(paths.CLEAN)  # codes may be too many for the memory, in which some systems keep /tmp
    device = devices.prepare(how.device, how.threads)
    devices.forget_peak_memory(device)
    images, validation = (pairs(split, entry.inputs) for split in ("train", "validation"))
    model = checkpoint.build(entry.model, images.targets.shape[1:], entry.arguments(), seed).to(device)
    took = {"data": time.time() - started}
    with stage.Lines(paths.live(name, seed)) as curve:
        results = training.train(
            model,
            images,
            validation,
            how.override(entry.training),
            seed=seed,
            how=how,
            label=f"{name}-seed{seed}",
            follow=lambda phase, point: curve.write({"phase": phase} | point),
        )
    for phase, result in results.items():
        if result.diverged_at_step:
            print(f"{name}-seed{seed}: the {phase} diverged at step {result.diverged_at_step}", flush=True)
    folder = paths.MODELS / name
    checkpoint.save(model, folder / f"seed{seed}.safetensors")
    outcome = {
        phase: {"best_step": result.best_step, "diverged_at_step": result.diverged_at_step}
        for phase, result in results.items()
    }
    stage.write_json(folder / f"seed{seed}.json", outcome)
    took["training"] = sum(result.seconds for result in results.values())
    took["validation"] = sum(result.validation_seconds for result in results.values())
    costs = {
        phase: {"seconds": result.seconds, "images_per_second": result.images / result.seconds}
        for phase, result in results.items()
    }
    memory = round(devices.peak_memory(device))
    return {"started": started, "ended": time.time(), "seconds": took, "phases": costs, "peak_memory_mib": memory}


def pairs(split: str, inputs: str) -> Pairs:
    """What a model sees of a split and what it is to give back; one and the same array if it sees clean images."""
    targets = storage.read(paths.images(paths.CLEAN, split))
    return Pairs(targets if inputs == "clean" else storage.read(paths.images(paths.CORRUPTED, split)), targets)


if __name__ == "__main__":
    typer.run(main)
