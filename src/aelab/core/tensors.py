"""Helpers for tensors: conversion of stored images, binarisation, modules and their devices."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aelab.core import arrays, process_group
from aelab.core.errors import UserError

BATCH = 100  # Samples per batch outside of training. Small batches need little memory and stay in a CPU's cache.
ON_GPU = 10  # A batch on a GPU is this many times larger, because small batches mostly wait for kernel launches.


def as_float(stored: Tensor | arrays.Array) -> Tensor:
    """Convert stored images, or stored codes (such as indices into a codebook), to the input of a model.

    Args:
        stored: Images (N, C, H, W) as uint8 from 0 to 255, or codes of any shape in another integer type.

    Returns:
        A tensor of the same shape: images as float32 in [0, 1], codes as int64.

    Raises:
        UserError: `stored` contains floats, objects that are no numbers, or images of several sizes.
    """
    if not isinstance(stored, Tensor):
        try:
            stored = np.ascontiguousarray(stored)
        except ValueError as error:
            msg = f"images must be uint8, all of one size, in one array: {error}"
            raise UserError(msg) from error
        if stored.dtype.kind not in "iuf" or not stored.dtype.isnative:
            msg = f"images must be uint8, from 0 to 255; got an array of {stored.dtype} {stored.shape}"
            raise UserError(msg)
        stored = torch.from_numpy(arrays.writable(stored))
    if stored.is_floating_point():
        msg = "images must be uint8, from 0 to 255; these are floats already"
        raise UserError(msg)
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored.long()


def binarise(generator: torch.Generator, *images: Tensor) -> tuple[Tensor, ...]:
    """Binarise images (B, C, H, W) at random: a value p in [0, 1] becomes 1 with probability p, else 0.

    All `images` share the same random thresholds. So where a clean image and its corrupted copy have equal values, the
    binary values are also equal.
    """
    thresholds = process_group.draw(torch.rand, images[0].shape, generator)
    return tuple((thresholds < x).float() for x in images)


class Uninitialised(TorchFunctionMode):
    """Context in which new modules get no random initial values.

    Modules on the meta device need no values. To draw them, torch would import its compiler, which takes over a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Skip the functions of `torch.nn.init`."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def in_float64(x: Tensor) -> Tensor:
    """Convert `x` to float64, on the CPU if the device of `x` lacks float64, as Apple's GPUs do."""
    return (x if x.device.type in {"cpu", "cuda"} else x.cpu()).double()


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    """Copy of the module's state. Later training steps do not change the copy."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def at_once(samples: int, device: torch.device) -> int:
    """Return the batch size outside of training: `samples` on a CPU, `ON_GPU` times as many on other devices."""
    return samples * (1 if device.type == "cpu" else ON_GPU)


def device_of(module: nn.Module) -> torch.device:
    """Device of a module's parameters."""
    return next(module.parameters()).device
