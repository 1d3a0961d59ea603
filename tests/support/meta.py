"""Stand-in for a GPU: torch's device "meta", which has shapes but no numbers, with a GPU's restrictions.

In a training step, reading a number is an error, since a GPU would have to wait. So is a tensor of the CPU, since a
recorded CUDA graph would read the tensor only once.

Outside of a step, numbers may be read, and each number is 1. Mixing tensors of the CPU and the device is an error.

Everywhere, a draw on a device needs a generator of the same device. As on Apple's GPUs, there is no float64.
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
_library.impl("_fused_adam_.tensor_lr", lambda *_, **__: None, "Meta")  # torch does not implement this operator


class Generator(torch.Generator):
    """Generator of the CPU that claims to belong to another device, since "meta" has no generators."""

    def __new__(cls, _: object = "cpu") -> Self:
        return super().__new__(cls)

    def __init__(self, device: object = "cpu") -> None:
        self.said = torch.device(str(device))

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.said


class Draws(TorchFunctionMode):
    """Mode that refuses draws on one device from the generator of another, as torch does on a GPU.

    In a `step`, the mode also refuses draws without a generator, and tensors made from numbers, which would be copies
    from the host.
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
    """Mode that refuses float64 on the device and, in a `step`, tensors of the CPU. Other reads give 1."""

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
    """Enforce the restrictions of a GPU in this block. With `step`, the rules of a training step hold."""
    with pytest.MonkeyPatch.context() as patch, Draws(step=step), OneDevice(step=step):
        patch.setattr(torch, "Generator", Generator)
        yield


def on_meta(patch: pytest.MonkeyPatch) -> None:
    """Patch torch's generators and autocast, so that objects from outside of a `policed` block can be used inside."""
    autocast = torch.autocast
    patch.setattr(torch, "Generator", Generator)
    patch.setattr(torch, "autocast", lambda kind, *a, **k: nullcontext() if kind == "meta" else autocast(kind, *a, **k))
