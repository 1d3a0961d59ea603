"""Checks of the arguments of `encode` and `decode`, for notebooks. Only models with `code_shapes` check them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from aelab.core.errors import UserError
from aelab.core.tensors import device_of
from aelab.data.checks import described, seen

if TYPE_CHECKING:
    from aelab.models.base import Autoencoder

Check: TypeAlias = Callable[["Autoencoder", Any], Any]


def door(method: Callable[..., Any], check: Check) -> Callable[..., Any]:
    """Wrap a method of a model so that `check` tests its first argument.

    Methods that the wrapped method calls do not check again.
    """
    first = [*inspect.signature(method).parameters][1]

    @functools.wraps(method)
    def checked(model: "Autoencoder", *given: Any, **named: Any) -> Any:
        if model.code_shapes is None or not (given or first in named):
            return method(model, *given, **named)
        one = check(model, given[0] if given else named.pop(first))
        with model.unchecked():
            return method(model, one, *given[1:], **named)

    return checked


def images(model: "Autoencoder", x: object) -> Tensor:
    """Return images as float32 tensors for `encode`; raise a `UserError` if they do not fit the model."""
    found = seen(x, model.image)
    _check_device(model, found)
    return found


def codes(model: "Autoencoder", z: object) -> object:
    """Return codes unchanged for `decode`; raise a `UserError` if they do not fit the model."""
    shapes = [tuple(shape) for shape in model.code_shapes or ()]
    given = z if isinstance(z, tuple) else (z,)
    found = [tuple(each.shape[1:]) if isinstance(each, Tensor) and each.is_floating_point() else None for each in given]
    if found != shapes:
        wanted = ", ".join(f"(B, {', '.join(map(str, shape))})" for shape in shapes)
        msg = (
            f"the code of this model must be {'a tensor' if len(shapes) == 1 else 'a tuple of tensors'} of floats "
            f"{wanted}, as `encode` returns it; got {', '.join(next(described(each)) for each in given)}"
        )
        raise UserError(msg)
    for each in given:
        _check_device(model, each)
    return z


def _check_device(model: "Autoencoder", x: Tensor) -> None:
    if x.device.type != (there := device_of(model).type):
        msg = f"the model is on the device {there}, but its argument is on {x.device.type}: pass x.to('{there}')"
        raise UserError(msg)


CHECKS: Mapping[str, Check] = {"encode": images, "decode": codes}
