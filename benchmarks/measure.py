"""Helpers of the benchmarks: tables, alternating measurements, and the speed of the machine."""

import contextlib
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

Value = str | float | None


@dataclass(frozen=True)
class Table:
    """A table of measurements."""

    title: str
    note: str
    columns: dict[str, int]  # name of a column → digits after the decimal point
    rows: list[list[Value]]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        digits = list(self.columns.values())
        lines = [
            "| " + " | ".join(_shown(value, digits[at]) for at, value in enumerate(row)) + " |" for row in self.rows
        ]
        aligned = [":--", *["--:"] * (len(digits) - 1)]
        return "\n".join([f"## {self.title}", "", self.note, "", f"| {' | '.join(self.columns)} |",
                          f"| {' | '.join(aligned)} |", *lines, ""])  # fmt: skip


def _shown(value: Value, digits: int) -> str:
    return "n/a" if value is None else value if isinstance(value, str) else f"{value:,.{digits}f}"


def take_turns(contestants: Sequence[Callable[[], float]], turns: int) -> list[list[float]]:
    """Call several functions alternately, so that a slow moment of the machine affects all of them.

    Args:
        contestants: functions that do some work and return one measurement, such as the seconds.
        turns: how often to call each function. One more call at the start is a warm-up, and is not counted.

    Returns:
        The measurements of each contestant.
    """
    figures = [[contestant() for contestant in contestants] for _ in range(turns + 1)]
    return [list(each) for each in zip(*figures[1:], strict=True)]


def ratio(a: Sequence[float], b: Sequence[float]) -> tuple[float, str]:
    """Return the median and the range of the ratios a ÷ b, one ratio for each repetition."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    return statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_flops(size: int = 2048, times: int = 5) -> float:
    """Return the best rate of several large float32 matrix products, in FLOP/s."""
    a = torch.randn(size, size)
    return max(2 * size**3 / seconds(lambda: a @ a) for _ in range(times))


def flops(work: Callable[[], object]) -> float:
    """Return the number of multiplications and additions in the convolutions and matrix products of `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard the output that the block prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def cores() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
