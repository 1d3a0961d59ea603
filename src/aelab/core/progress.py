"""Progress lines of long work. A line shows which percentage is done, and how many seconds are left."""

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

EVERY = 10.0  # seconds between two lines
MEASURED = 1.0  # seconds of work before the total time is estimated
LONG = 30.0  # seconds; a total time below this limit is not printed
LABEL: ContextVar[str] = ContextVar("LABEL", default="")
CHEAPER: ContextVar[str] = ContextVar("CHEAPER", default="")


@contextmanager
def part(label: str, cheaper: str = "") -> Iterator[None]:
    """Context whose work has the name `label` in progress lines. The names of inner contexts are appended to `label`.

    Args:
        label: Name of the work.
        cheaper: Key in `params.yaml` whose smaller values shorten the work; empty if there is no such key.
    """
    outer = LABEL.get()
    tokens = LABEL.set(f"{outer}: {label}" if outer else label), CHEAPER.set(cheaper)
    try:
        yield
    finally:
        LABEL.reset(tokens[0])
        CHEAPER.reset(tokens[1])


def counted(items: Iterable[T], total: int | None = None, size: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """Yield the items one by one, and print progress lines if the call is inside a `part` block.

    Every 10 seconds, a line shows the percentage and the time left. After the first second, the function estimates the
    total time. A line shows the estimate and the block's `cheaper` key, if this key exists and the estimate is at least
    30 seconds.

    Args:
        items: Collection or iterator.
        total: Total size of all items; by default their number. Required for an iterator.
        size: Function that returns the size of an item; by default each item has size 1.
    """
    if total is None:
        assert isinstance(items, Sized)  # noqa: S101 - an iterator needs a total
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
