"""Settings in environment variables: how much of a machine a process may take. No result depends on them."""

import os
from collections.abc import Callable
from typing import TypeVar

from aelab.core.errors import UserError

N = TypeVar("N", int, float)


def whole_number(name: str, least: int = 1) -> int | None:
    """What the variable `name` says; None if it is not set or empty.

    Raises:
        UserError: it is no whole number of at least `least`.
    """
    return _read(name, int, least, "a whole number")


def number(name: str, least: float = 0.0) -> float | None:
    """What the variable `name` says; None if it is not set or empty.

    Raises:
        UserError: it is no number of at least `least`.
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
    if value is None or not value >= least:  # NaN is not
        msg = f"{name} is {text!r}: it must be {what} of at least {least:g}"
        raise UserError(msg)
    return value
