"""Checks, before the first training step, that each training fits into memory.

An entry is the configuration of a model in the section `variants` of `params.yaml`.
"""

import math
from collections.abc import Iterable, Mapping

import torch

from aelab.core import devices
from aelab.core.errors import UserError
from aelab.models import checkpoint
from aelab.training.memory import Need, needs
from pipeline.common import resources, seeds
from pipeline.common.params import Params

GIB = 2**30


def check_all(params: Params) -> None:
    """Check that this machine has enough memory to train every entry, with as many seeds at once as `train` runs.

    Raises:
        UserError: the memory is too small. The message has one sentence for each phase (autoencoder or prior) of an
            entry's training that does not fit.
    """
    device = devices.prepare(params.training.device, params.training.threads)
    side_by_side = seeds.side_by_side(params, device, resources.cpus()) if params.training.processes == 1 else 1
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else devices.free_memory()
    check(params, params.variants, device, free // max(1, min(len(params.seeds), side_by_side)))


def check(params: Params, names: Iterable[str], device: torch.device, room: int, count: int | None = None) -> None:
    """Check that a training step of each entry fits into the free memory of the device.

    Args:
        params: all parameters.
        names: names of the entries to check.
        device: the device to train on.
        room: free memory for each training, in bytes.
        count: number of training images, or None if unknown. A batch has at most this number of images.

    Raises:
        UserError: the memory is too small. The message has one sentence for each phase (autoencoder or prior) of an
            entry's training that does not fit.
    """
    problems = []
    for name in names:
        entry, options = params.entry(name), params.training
        with torch.random.fork_rng(devices=[]):  # so that `build` does not change the caller's random generator
            model = checkpoint.build(entry.model, params.dataset.image, entry.arguments(), seed=0)
            found = needs(model, options.override(entry.training), options.precision, device.type)
        for need in found:
            images = math.ceil(min(need.batch, count or need.batch) / options.processes)
            if need.bytes(images) > room:
                problems.append(_sentence(params, name, need, images, room))
    if problems:
        raise UserError("\n".join(problems))


def _sentence(params: Params, name: str, need: Need, images: int, room: int) -> str:
    """Return the message for one phase: the memory that a step needs, the free memory, and settings that would fit."""
    arguments, key = params.entry(name).arguments(), f"variants.{name}"
    section = arguments.get(need.phase)  # a phase such as `prior` may have its own batch size
    own = f".{need.phase}" if isinstance(section, Mapping) and "training" in section else ""
    changes = []
    if fitting := need.fitting(room) * params.training.processes:
        changes.append(f"{key}{own}.training.batch_size: {fitting} or less")
    network = arguments.get("network")
    if isinstance(network, Mapping) and isinstance(now := network.get("downsampling"), int):
        changes.append(f"a {key}.network.downsampling of more than {now}")
    if params.dataset.folder is not None:
        changes.append(
            f"a dataset.folders.{params.dataset.name}.resolution of less than {params.dataset.folder.resolution}"
        )
    if len(params.seeds) > 1:
        changes.append(f"one seed at a time, with {resources.CPUS}=1")
    shape = "×".join(map(str, params.dataset.image))
    return (
        f"variants.{name}: a training step of its {need.phase} takes about {need.bytes(images) / GIB:,.1f} GiB, with "
        f"{images} images of {shape}, and {room / GIB:,.1f} GiB are free for it: take {', or '.join(changes)}"
    )
