"""Progress of work that takes long: a line now and then with the share that is done and the time that is left."""

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

EVERY = 10.0  # seconds between two lines
MEASURED = 1.0  # seconds of work that tell how long all of it will take
LONG = 30.0  # seconds: of longer work it is said at once
LABEL: ContextVar[str] = ContextVar("LABEL", default="")
CHEAPER: ContextVar[str] = ContextVar("CHEAPER", default="")


@contextmanager
def part(label: str, cheaper: str = "") -> Iterator[None]:
    """Within this context the work is called `label`, after the name of what it is a part of.

    Args:
        label: its name.
        cheaper: the key that makes it shorter when it is set to less.
    """
    outer = LABEL.get()
    tokens = LABEL.set(f"{outer}: {label}" if outer else label), CHEAPER.set(cheaper)
    try:
        yield
    finally:
        LABEL.reset(tokens[0])
        CHEAPER.reset(tokens[1])


def counted(items: Iterable[T], total: int | None = None, size: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """The items one by one; within a `part`, a line every 10 seconds says how long the rest will take, and one after
    the first second what long work will take in all, if its part says what would make it cheaper.

    Args:
        items: at hand, or as they come.
        total: their size; by default their number.
        size: of an item.
    """
    if total is None:
        assert isinstance(items, Sized)  # noqa: S101 - else a total has to be named
        total = len(items)
    began = said = time.monotonic()
    label, cheaper, done = LABEL.get(), CHEAPER.get(), 0
    for item in items:
        now = time.monotonic()
        if label and done and cheaper and now - began >= MEASURED:
            whole = (now - began) / done * total
            if whole >= LONG:
                print(f"{label}: about {whole:.0f} s in all; a smaller {cheaper} makes it cheaper", flush=True)
            cheaper = ""
        if label and done and now - said >= EVERY:
            said = now
            left = (now - began) / done * (total - done)
            print(f"{label}: {done / total:.0%}, {left:.0f} s left", flush=True)
        yield item
        done += size(item)
