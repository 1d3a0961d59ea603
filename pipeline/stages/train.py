"""train@entry: train an entry once with each random seed, and write weights, learning curves and outcomes.

An entry is a model with its settings in params.yaml. An outcome names the step with the lowest validation loss, and the
step at which the training diverged, if it did.
"""

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
    """Train an entry once with each random seed, and write weights, learning curves and outcomes.

    NAME is a key of `variants` in params.yaml, or the name of the stage, such as train@vae.
    """
    name = name.rpartition("@")[2]
    if part is None:
        stage.run(lambda params, provenance: work(params, provenance, name), paths.training(name), polls=True)
    else:  # torchrun has started this process, one of several that train one seed together
        ranks.take_part(lambda params: train_seed(params, name, part))


def work(params: Params, provenance: stage.Provenance, name: str) -> None:
    """Check the data, train every seed, and copy the results to the outputs that DVC tracks."""
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
    """Train an entry with one seed, unless this training is already finished.

    The phases of a training are the autoencoder and, for some models, a learned prior.
    """
    began, entry, options = time.time(), params.entry(name), params.training
    folder, writes = TrainingFolder.of(name, seed, params, _machine(params)), process_group.first()
    device = devices.prepare(options.device, options.threads)
    process_group.check_same(folder.fingerprint, device)
    # If several processes train the seed, the first process holds the folder's lock for all of them.
    with folder.held(signals.asked_to_stop) if writes else nullcontext():
        if process_group.any_of(writes and _finished(folder), device):
            return

        # load the data; temporary files go to the data's disk, because /tmp may be in memory, and too small
        tempfile.tempdir = str(paths.CLEAN)
        images, validation = (pairs(params, split, entry.inputs) for split in ("train", "validation"))

        # build the model, if the memory suffices for training
        memory.check(params, [name], device, devices.share(device), count=len(images.targets))
        devices.forget_peak_memory(device)
        model = checkpoint.build(entry.model, images.targets.shape[1:], entry.arguments(), seed).to(device)
        loaded = time.time()

        # train all phases, starting from the last snapshot if there is one
        about = {"entry": name, "seed": seed, **_machine(params)}
        stop = process_group.stopping if process_group.size() > 1 else signals.asked_to_stop
        with folder.session(about, stop, writes=writes) as session:
            results = train(
                model, images, validation, options.override(entry.training), seed=seed, options=options,
                dynamic=params.dataset.binarize == "dynamic" and entry.inputs == CLEAN, session=session,
            )  # fmt: skip

        # save the results
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
    """Return the inputs and the targets of a split. The targets are the clean images.

    If `inputs` is clean, inputs and targets are the same array. Otherwise, the inputs are the corrupted images.
    """
    if inputs == CLEAN:
        return Pairs.of(arrays.read(paths.images(paths.CLEAN, split)))
    return Pairs(arrays.read(paths.images(paths.inputs(inputs), split)), seen(params, split))


def _machine(params: Params) -> dict[str, str]:
    """Return device, hardware, precision and mode of execution, which can change the weights, if only by rounding."""
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
