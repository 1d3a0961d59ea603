"""Progress of work that takes long: a line now and then with the share that is done and the time that is left."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

EVERY = 10.0  # seconds between two lines
LABEL: ContextVar[str] = ContextVar("LABEL", default="")


@contextmanager
def part(label: str) -> Iterator[None]:
    """Within this context the work is called `label`, after the name of what it is a part of."""
    outer = LABEL.get()
    token = LABEL.set(f"{outer}: {label}" if outer else label)
    try:
        yield
    finally:
        LABEL.reset(token)


def counted(items: Sequence[T]) -> Iterator[T]:
    """The items one by one; within a `part`, a line every 10 seconds says how long the rest will take."""
    began = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if LABEL.get() and now - said >= EVERY:
            said = now
            left = (now - began) / done * (len(items) - done)
            print(f"{LABEL.get()}: {done / len(items):.0%}, {left:.0f} s left", flush=True)
        yield item
