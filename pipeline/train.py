"""train@entry: train every seed of one entry; write its weights, curves and outcomes."""

import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch
import typer

from autoencoders import checkpoint, devices, storage, training
from autoencoders.snapshots import Snapshots
from autoencoders.sources import Pairs
from pipeline import paths, stage, store
from pipeline.images import seen
from pipeline.params import CLEAN, Params
from pipeline.store import Slot


def main(name: str) -> None:
    """Train NAME, an entry of `variants` in params.yaml. The name of its stage, train@NAME, means the same."""
    name = name.rpartition("@")[2]

    def work(params: Params, provenance: stage.Provenance) -> None:
        provenance |= _machine(params)
        for folder in {paths.CLEAN, paths.inputs(params.entry(name).inputs)}:
            for split in ("train", "validation"):
                storage.check(folder / split)
        store.tidy()
        provenance["seeds"] = stage.for_each_seed(train, params, name, timed=True)

    stage.run(work, paths.training(name), polls=True)


def _machine(params: Params) -> dict[str, str]:
    """What the bits of a training depend on beside code, data and parameters."""
    how = params.training
    device = devices.prepare(how.device, how.threads)
    mode = how.mode if device.type == "cuda" else "eager"
    hardware = devices.describe(device)
    return {"device": device.type, "hardware": hardware, "precision": how.precision, "mode": mode}


def train(params: Params, name: str, seed: int) -> dict[str, Any]:
    """Train one seed through all its phases, unless that has been done, and hand it over; returns what it cost."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    slot, fingerprint = store.slot(name, seed, params, _machine(params) | versions)
    with slot.held(stage.asked_to_stop):
        ended = slot.result()
        if ended is None:
            about = {"entry": name, "seed": seed, "fingerprint": fingerprint, **_machine(params)}
            ended = slot.finish(_train(params, name, seed, slot, about))
        else:
            print(f"{name}-seed{seed} was trained before: {slot.folder.name}", flush=True)
        models = paths.MODELS / name
        models.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(slot.model, models / f"seed{seed}.safetensors")
        stage.write_json(models / f"seed{seed}.json", ended["outcome"])
        paths.curve(name, seed).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(slot.curve, paths.curve(name, seed))
    return {"fingerprint": fingerprint, **ended["cost"]}


def _train(params: Params, name: str, seed: int, slot: Slot, about: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a training; returns its outcome and its cost."""
    began = time.time()
    entry, how = params.entry(name), params.training
    tempfile.tempdir = str(paths.CLEAN)  # codes may be too many for the memory, in which some systems keep /tmp
    device = devices.prepare(how.device, how.threads)
    devices.forget_peak_memory(device)
    images, validation = (pairs(params, split, entry.inputs) for split in ("train", "validation"))
    model = checkpoint.build(entry.model, images.targets.shape[1:], entry.arguments(), seed).to(device)
    took = {"data": time.time() - began}
    before = stage.read_json(slot.about)["begun"] if slot.about.exists() else []
    begun = [*before, began]
    raw = store.raw_parameters(name)
    storage.write_atomically(slot.about, stage.as_json({**about, "begun": begun, "parameters": raw}))
    snapshots = Snapshots(slot.folder, stop=stage.asked_to_stop)
    with store.Log(slot.curve) as log:
        if latest := snapshots.latest():
            print(
                f"{name}-seed{seed} goes on from step {latest.values.get('step', 0):,} of the {latest.values['phase']}"
            )
            for phase, point in latest.points():  # a power cut may have taken some of them
                log.write({"phase": phase} | point)
        results = training.train(
            model,
            images,
            validation,
            how.override(entry.training),
            seed=seed,
            how=how,
            label=f"{name}-seed{seed}",
            dynamic=params.dataset.binarize == "dynamic" and entry.inputs == CLEAN,
            follow=lambda phase, point: log.write({"phase": phase} | point),
            keeper=snapshots,
        )
    for phase, result in results.items():
        if result.diverged_at_step:
            print(f"{name}-seed{seed}: the {phase} diverged at step {result.diverged_at_step}: {result.cause}")
    checkpoint.save(model, slot.model)
    snapshots.clear()
    took["training"] = sum(result.seconds for result in results.values())
    took["validation"] = sum(result.validation_seconds for result in results.values())
    return {
        "outcome": {
            phase: {
                "best_step": result.best_step,
                "diverged_at_step": result.diverged_at_step,
                "cause": result.cause,
            }
            for phase, result in results.items()
        },
        "cost": {
            "started": begun[0],
            "ended": time.time(),
            "interruptions": len(begun) - 1,
            "seconds": took,
            "phases": {
                phase: {"seconds": result.seconds, "images_per_second": result.images / result.seconds}
                for phase, result in results.items()
            },
            "peak_memory_mib": round(devices.peak_memory(device)),
        },
    }


def pairs(params: Params, split: str, inputs: str) -> Pairs:
    """What a model sees of a split and what it is to give back; one and the same array if it sees clean images."""
    if inputs == CLEAN:
        return Pairs.of(storage.read(paths.images(paths.CLEAN, split)))
    return Pairs(storage.read(paths.images(paths.inputs(inputs), split)), seen(params, split))


if __name__ == "__main__":
    typer.run(main)
