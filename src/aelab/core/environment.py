"""Reads numbers from environment variables, such as AELAB_MEMORY. No result of a training depends on the variables."""

import os
from collections.abc import Callable
from typing import TypeVar

from aelab.core.errors import UserError

N = TypeVar("N", int, float)


def whole_number(name: str, least: int = 1) -> int | None:
    """Whole number in the environment variable `name`; None if the variable is unset or empty.

    Raises:
        UserError: The value is not a whole number of at least `least`.
    """
    return _read(name, int, least, "a whole number")


def number(name: str, least: float = 0.0) -> float | None:
    """Number in the environment variable `name`; None if the variable is unset or empty.

    Raises:
        UserError: The value is not a number of at least `least`.
    """
    return _read(name, float, least, "a number")


def _read(name: str, kind: Callable[[str], N], least: N, what: str) -> N | None:
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not value >= least:  # NaN is refused, too
        msg = f"{name} is {text!r}: it must be {what} of at least {least:g}"
        raise UserError(msg)
    return value
