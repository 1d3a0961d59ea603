"""train@entry: train every seed of an entry, and write weights, curves and outcomes."""

import tempfile
import time
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from aelab.core import arrays, devices, disk, process_group
from aelab.core.errors import UserError
from aelab.data.pairs import Pairs
from aelab.models import checkpoint
from aelab.training.loop import train
from pipeline.common import memory, paths, seeds, signals, stage
from pipeline.common.images import seen
from pipeline.common.params import CLEAN, Params
from pipeline.training import ranks, training_folder
from pipeline.training.training_folder import TrainingFolder


def main(name: str, part: Annotated[int | None, typer.Option(hidden=True)] = None) -> None:
    """Train every seed of an entry, and write weights, curves and outcomes.

    NAME is a key of `variants` in params.yaml, or the name of the stage, such as train@vae.
    """
    name = name.rpartition("@")[2]
    if part is None:
        stage.run(lambda params, provenance: work(params, provenance, name), paths.training(name), polls=True)
    else:  # a process that torchrun started for one seed
        ranks.take_part(lambda params: train_seed(params, name, part))


def work(params: Params, provenance: stage.Provenance, name: str) -> None:
    """Check the data, train every seed, and copy the results to DVC's outputs."""
    machine = _machine(params)
    provenance |= {**machine, "processes": params.training.processes}
    for folder in {paths.CLEAN, paths.inputs(params.entry(name).inputs)}:
        for split in ("train", "validation"):
            disk.check(folder / split)
    training_folder.tidy()
    if params.training.processes > 1:
        ranks.check_gpus(params)
        for seed in params.seeds_of(name):
            if not _finished(TrainingFolder.of(name, seed, params, machine)):
                command = ["pipeline.stages.train", name, f"--part={seed}"]
                ranks.run(command, params.training.processes, params.training.threads)
    else:
        seeds.for_each_seed(train_seed, params, name, timed=True)
    provenance["seeds"] = {seed: _hand_over(params, machine, name, seed) for seed in params.seeds_of(name)}


def train_seed(params: Params, name: str, seed: int) -> None:
    """Train all phases of one seed, unless they are finished: load, build, train, save."""
    began, entry, options = time.time(), params.entry(name), params.training
    folder, writes = TrainingFolder.of(name, seed, params, _machine(params)), process_group.first()
    device = devices.prepare(options.device, options.threads)
    process_group.check_same(folder.fingerprint, device)
    with folder.held(signals.asked_to_stop) if writes else nullcontext():  # the first process holds the lock for all
        if process_group.any_of(writes and _finished(folder), device):
            return

        # load; temporary files go to the data's disk, since some systems keep /tmp in memory, which may be too small
        tempfile.tempdir = str(paths.CLEAN)
        images, validation = (pairs(params, split, entry.inputs) for split in ("train", "validation"))

        # build, if the memory suffices
        memory.check(params, [name], device, devices.share(device), count=len(images.targets))
        devices.forget_peak_memory(device)
        model = checkpoint.build(entry.model, images.targets.shape[1:], entry.arguments(), seed).to(device)
        loaded = time.time()

        # train, from the last snapshot
        about = {"entry": name, "seed": seed, **_machine(params)}
        stop = process_group.stopping if process_group.size() > 1 else signals.asked_to_stop
        with folder.session(about, stop, writes=writes) as session:
            results = train(
                model, images, validation, options.override(entry.training), seed=seed, options=options,
                dynamic=params.dataset.binarize == "dynamic" and entry.inputs == CLEAN, session=session,
            )  # fmt: skip

        # save
        if writes:
            for phase, result in results.items():
                if result.diverged_at_step:
                    print(f"{folder.name}: the {phase} diverged at step {result.diverged_at_step}: {result.cause}")
            cost = {
                "seconds": {
                    "data": loaded - began,
                    "training": sum(result.seconds for result in results.values()),
                    "validation": sum(result.validation_seconds for result in results.values()),
                },
                "cpu_seconds": sum(result.cpu_seconds for result in results.values()),
                "phases": {
                    phase: {"seconds": result.seconds, "images_per_second": result.images / result.seconds}
                    for phase, result in results.items()
                },
                "peak_memory_mib": round(devices.peak_memory(device)),
            }
            folder.finish(model, results, cost)


def pairs(params: Params, split: str, inputs: str) -> Pairs:
    """Return a split's inputs and targets for a model; both are the same array if `inputs` is clean."""
    if inputs == CLEAN:
        return Pairs.of(arrays.read(paths.images(paths.CLEAN, split)))
    return Pairs(arrays.read(paths.images(paths.inputs(inputs), split)), seen(params, split))


def _machine(params: Params) -> dict[str, str]:
    """Return the properties of the machine that can change the trained weights, at least in their rounding."""
    options = params.training
    device = devices.prepare(options.device, options.threads)
    mode = options.mode if device.type == "cuda" else "eager"
    return {
        "device": device.type, "hardware": devices.describe(device), "precision": options.precision, "mode": mode
    }  # fmt: skip


def _finished(folder: TrainingFolder) -> bool:
    done = folder.result() is not None
    if done:
        print(f"{folder.name} is already trained: {folder.folder.name}", flush=True)
    return done


def _hand_over(params: Params, machine: dict[str, str], name: str, seed: int) -> dict[str, Any]:
    folder = TrainingFolder.of(name, seed, params, machine)
    try:
        return folder.hand_over(name, seed)
    except FileNotFoundError as error:
        msg = f"{folder.folder} does not hold the finished training: all machines must share the folder `checkpoints`"
        raise UserError(msg) from error


if __name__ == "__main__":
    typer.run(main)
