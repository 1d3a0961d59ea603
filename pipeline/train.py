"""train@entry: train every seed of one entry; write its weights, curves and outcomes."""

import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated, Any

import torch
import typer

from autoencoders import checkpoint, devices, parallel, storage, training
from autoencoders.errors import UserError
from autoencoders.snapshots import Snapshots
from autoencoders.sources import Pairs
from pipeline import paths, ranks, stage, store
from pipeline.images import seen
from pipeline.params import CLEAN, Params
from pipeline.store import Slot


def main(name: str, part: Annotated[int | None, typer.Option(hidden=True)] = None) -> None:
    """Train NAME, an entry of `variants` in params.yaml. The name of its stage, train@NAME, means the same."""
    name = name.rpartition("@")[2]
    if part is not None:  # one of the processes that share the training of this seed
        ranks.take_part(lambda params: take_part(params, name, part))
        return

    def work(params: Params, provenance: stage.Provenance) -> None:
        provenance |= {**_machine(params), "processes": params.training.processes}
        for folder in {paths.CLEAN, paths.inputs(params.entry(name).inputs)}:
            for split in ("train", "validation"):
                storage.check(folder / split)
        store.tidy()
        if params.training.processes > 1:
            _enough_gpus(params)
            provenance["seeds"] = {seed: share_out(params, name, seed) for seed in params.seeds}
        else:
            provenance["seeds"] = stage.for_each_seed(train, params, name, timed=True)

    stage.run(work, paths.training(name), polls=True)


def _enough_gpus(params: Params) -> None:
    """See that each process has a GPU of its own, if they are to work on GPUs."""
    needed, there = ranks.here(params.training.processes), torch.cuda.device_count()
    on_gpu = params.training.device == "cuda" or (params.training.device == "auto" and torch.cuda.is_available())
    if on_gpu and there < needed:
        msg = f"training.processes wants {needed} GPUs of this machine, which has {there}: take as many, or device: cpu"
        raise UserError(msg)


def _machine(params: Params) -> dict[str, str]:
    """What the bits of a training depend on beside code, data and parameters."""
    how = params.training
    device = devices.prepare(how.device, how.threads)
    mode = how.mode if device.type == "cuda" else "eager"
    hardware = devices.describe(device)
    return {"device": device.type, "hardware": hardware, "precision": how.precision, "mode": mode}


def train(params: Params, name: str, seed: int) -> dict[str, Any]:
    """Train one seed through all its phases, unless that has been done, and hand it over; returns what it cost."""
    slot, about = _slot(params, name, seed)
    with slot.held(stage.asked_to_stop):
        ended = slot.result()
        if ended is None:
            ended = slot.finish(_train(params, name, seed, slot, about))
        else:
            print(f"{name}-seed{seed} was trained before: {slot.folder.name}", flush=True)
        return _hand_over(slot, name, seed, ended) | {"fingerprint": about["fingerprint"]}


def share_out(params: Params, name: str, seed: int) -> dict[str, Any]:
    """The same by several processes, the first of which alone writes into the seed's folder."""
    slot, about = _slot(params, name, seed)
    if slot.result() is None:
        command = ["pipeline.train", name, f"--part={seed}"]
        ranks.run(command, params.training.processes, params.training.threads)
    else:
        print(f"{name}-seed{seed} was trained before: {slot.folder.name}", flush=True)
    if (ended := slot.result()) is None:
        msg = f"{slot.folder} does not hold what the training has left: all machines have to share `checkpoints`"
        raise UserError(msg)
    return _hand_over(slot, name, seed, ended) | {"fingerprint": about["fingerprint"]}


def take_part(params: Params, name: str, seed: int) -> None:
    """Be one of those processes."""
    slot, about = _slot(params, name, seed)
    device = devices.prepare(params.training.device, params.training.threads)
    if not parallel.agree(about["fingerprint"], device):
        msg = "the processes of a training differ in parameters, code, data, versions or hardware: let all be the same"
        raise UserError(msg)
    with slot.held(stage.asked_to_stop) if parallel.first() else nullcontext():
        ended = parallel.first() and slot.result() is not None  # all wait for the one that holds the folder
        if not parallel.any_of(ended, device):
            result = _train(params, name, seed, slot, about)
            if parallel.first():
                slot.finish(result)


def _slot(params: Params, name: str, seed: int) -> tuple[Slot, dict[str, Any]]:
    """The folder of a seed's training, and what is trained there."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    slot, fingerprint = store.slot(name, seed, params, _machine(params) | versions)
    return slot, {"entry": name, "seed": seed, "fingerprint": fingerprint, **_machine(params)}


def _hand_over(slot: Slot, name: str, seed: int, ended: Mapping[str, Any]) -> dict[str, Any]:
    """Copy what a training has left to where DVC looks for it; returns what it cost."""
    models = paths.MODELS / name
    models.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(slot.model, models / f"seed{seed}.safetensors")
    stage.write_json(models / f"seed{seed}.json", ended["outcome"])
    paths.curve(name, seed).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(slot.curve, paths.curve(name, seed))
    cost: dict[str, Any] = ended["cost"]
    return cost


def _train(params: Params, name: str, seed: int, slot: Slot, about: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a training; returns its outcome and its cost. Of several processes the first one writes."""
    began, first = time.time(), parallel.first()
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
    stop = parallel.stopping if parallel.size() > 1 else stage.asked_to_stop
    snapshots = Snapshots(slot.folder, stop=stop, writes=first)
    if first:
        storage.write_atomically(slot.about, stage.as_json({**about, "begun": begun, "parameters": raw}))
    with store.Log(slot.curve) if first else nullcontext() as log:
        if log and (latest := snapshots.latest()):
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
            follow=lambda phase, point: log.write({"phase": phase} | point) if log else None,
            keeper=snapshots,
        )
    if first:
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
