"""The device "meta" as a GPU: it has shapes and no numbers, and refuses what would make a GPU wait or ask it in vain.

a step        may read no number, and use no tensor of the CPU: recorded, it would read that once
elsewhere     numbers may be read, each is 1; a tensor of the CPU beside one of the device is an error all the same
anywhere      draws on a device need a generator of that device; there is no float64, as on Apple's GPUs
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
COPIES = {"tensor", "as_tensor", "new_tensor", "from_numpy"}
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "rand_like", "randn_like",
         "uniform_", "normal_", "bernoulli_", "exponential_", "dropout"}  # fmt: skip
_library = torch.library.Library("aten", "IMPL")
_library.impl("_fused_adam_.tensor_lr", lambda *_, **__: None, "Meta")  # torch has none


class Generator(torch.Generator):
    """One of the CPU that says that it is of another device, since "meta" has none."""

    def __new__(cls, _: object = "cpu") -> Self:
        return super().__new__(cls)

    def __init__(self, device: object = "cpu") -> None:
        self.said = torch.device(str(device))

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.said


class Draws(TorchFunctionMode):
    """Refuses, as torch does on a GPU, to draw on one device from the generator of another; in a `step` also to draw
    without one, and to make a tensor of a number, which is a copy from the host.
    """

    def __init__(self, *, step: bool) -> None:
        super().__init__()
        self.step = step

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if self.step and func.__name__ in COPIES:
            msg = f"{func.__name__} copies from the host"
            raise RuntimeError(msg)
        generator = next((each for each in (*args, *kwargs.values()) if isinstance(each, torch.Generator)), None)
        if self.step and func.__name__ in DRAWS and generator is None:
            msg = f"{func.__name__} draws from torch's own generator"
            raise RuntimeError(msg)
        if generator is not None:
            others = [str(each.device) for each in args if isinstance(each, Tensor)]
            where = torch.device(kwargs.get("device") or (others or ["cpu"])[0])
            if where.type != generator.device.type:
                msg = f"{func.__name__} on {where} from a generator of {generator.device}"
                raise RuntimeError(msg)
        return func(*args, **kwargs)


class OneDevice(TorchDispatchMode):
    """Refuses float64 on the device, and in a `step` tensors of the CPU; elsewhere whatever is read is 1."""

    def __init__(self, *, step: bool) -> None:
        super().__init__()
        self.step = step

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, taken = func.__name__.partition(".")[0], tensors(args, kwargs)
        on_device = any(each.is_meta for each in taken)
        if not self.step and on_device:
            if name == "_local_scalar_dense":
                return {torch.bool: True}.get(args[0].dtype, 1 if not args[0].is_floating_point() else 1.0)
            if name == "_to_copy" and kwargs.get("device", META) != META:
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        out = func(*args, **kwargs)
        made = tensors(out)
        if self.step and any(not each.is_meta for each in (*taken, *made)):
            msg = f"{name} with a tensor of the CPU"
            raise RuntimeError(msg)
        if any(each.is_meta and each.dtype == torch.float64 for each in made):
            msg = f"{name} makes float64 on the device"
            raise RuntimeError(msg)
        return out


def tensors(*trees: Any) -> list[Tensor]:
    return [each for each in tree_leaves(trees) if isinstance(each, Tensor)]


@contextmanager
def policed(*, step: bool) -> Iterator[None]:
    """Everything of a device is policed in this block, as in a training `step` or more kindly."""
    with pytest.MonkeyPatch.context() as patch, Draws(step=step), OneDevice(step=step):
        patch.setattr(torch, "Generator", Generator)
        yield


def on_meta(patch: pytest.MonkeyPatch) -> None:
    """Have what is made outside of a policed block fit into one: generators, and an autocast that knows "meta"."""
    autocast = torch.autocast
    patch.setattr(torch, "Generator", Generator)
    patch.setattr(torch, "autocast", lambda kind, *a, **k: nullcontext() if kind == "meta" else autocast(kind, *a, **k))
