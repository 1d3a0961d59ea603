"""Small helpers for tensors on their way between disk, device and model."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aelab.core import arrays, process_group
from aelab.core.errors import UserError

BATCH = 100  # samples at a time where nothing is learned: bounds the memory, and small ones stay in a CPU's cache
ON_GPU = 10  # times as many there, which would wait for one launch after the other


def as_float(stored: Tensor | arrays.Array) -> Tensor:
    """What is stored as a model sees it, same shape: uint8 becomes floats in [0, 1], codes become indices of 64 bits.

    Raises:
        UserError: it holds floats already, or no numbers.
    """
    if not isinstance(stored, Tensor):
        try:
            stored = np.ascontiguousarray(stored)
        except ValueError as error:
            msg = f"images are stored as uint8, all of one size, in one array: {error}"
            raise UserError(msg) from error
        if stored.dtype.kind not in "iuf" or not stored.dtype.isnative:
            msg = f"images are stored as uint8, from 0 to 255; what came is an array of {stored.dtype} {stored.shape}"
            raise UserError(msg)
        stored = torch.from_numpy(arrays.writable(stored))
    if stored.is_floating_point():
        msg = "images are stored as uint8, from 0 to 255; these are floats already"
        raise UserError(msg)
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored.long()


def binarise(generator: torch.Generator, *images: Tensor) -> tuple[Tensor, ...]:
    """Images (B, C, H, W) of gray values in [0, 1] as black and white ones, white with the gray value as probability.

    One threshold for each pixel serves all `images`: a corrupted copy is binarised as the image itself is.
    """
    thresholds = process_group.draw(torch.rand, images[0].shape, generator)
    return tuple((thresholds < x).float() for x in images)


class Uninitialised(TorchFunctionMode):
    """Within this context modules are built without initial values.

    On the meta device torch draws them by way of its compiler, which takes more than a second to import.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Leave out what `torch.nn.init` does."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def in_float64(x: Tensor) -> Tensor:
    """x in float64: where it is, or on the CPU if its device has no such numbers, as Apple's GPUs."""
    return (x if x.device.type in {"cpu", "cuda"} else x.cpu()).double()


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's state, detached from what training goes on to change."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def at_once(samples: int, device: torch.device) -> int:
    """How many samples to compute at a time on `device` where a CPU takes `samples`, and nothing is learned."""
    return samples * (1 if device.type == "cpu" else ON_GPU)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next(module.parameters()).device
