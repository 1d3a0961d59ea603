"""Checks of the tensors that a user of a notebook passes to a model's methods `encode` and `decode`.

A model checks its arguments only if its attribute `code_shapes` is set. `door` adds the check to a method.
"""

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
    """Return `method` with a check of its first argument.

    While the method runs, nested calls of `encode` and `decode` check nothing.

    Args:
        method: method of a model, such as `encode`.
        check: function that gets the model and the method's first argument. The function returns the argument, perhaps
            converted, or raises a `UserError`.
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
    """Check images for `encode`, and return them as float32. Images that do not fit the model raise a `UserError`."""
    found = seen(x, model.image)
    _check_device(model, found)
    return found


def codes(model: "Autoencoder", z: object) -> object:
    """Check codes for `decode`, and return them unchanged. Codes that do not fit the model raise a `UserError`."""
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
