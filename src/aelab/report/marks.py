"""Marks beside an entry's name: what is wrong with it, and whether its training ended too early or blew up.

A training is still falling at its end if no validation loss is below the last one, and the mean over the seeds of its
fall over the last tenth of the steps is more than 0.5 % of that loss. Schedules that end at a rate of 0 flatten every
curve, so that this is a little of what more steps would bring. On MNIST, with one cycle, an AE that fell by 0.9 % ended
12 % lower after twice the steps; a VAE that fell by 0.1 %, 1.5 % lower.

A training blew up if its last validation loss is at least twice its least one. Its weights are those of the least
loss, so its metrics look like those of a training that was merely short.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from aelab.report.evidence import Curve, Entry
from aelab.report.tables import listed

LAST, FALL = 0.1, 0.5  # share of the steps; fall of the loss over them, in %
RISE = 2.0  # last validation loss ÷ least one


@dataclass(frozen=True)
class Name:
    """An entry's name with what belongs beside it."""

    size: str  # of its code, and how often each image was looked at; "" where neither is known
    marks: Sequence[str]
    floor: bool


def names(entries: Sequence[Entry]) -> dict[str, Name]:
    """By the name of the entry."""
    return {entry.name: Name(_size(entry), marks(entry), entry.floor) for entry in entries}


def marks(entry: Entry) -> list[str]:
    """What a reader of any of its numbers has to know."""
    falling = [
        f"still falling at its end{'' if phase == 'autoencoder' else f', its {phase}'}: "
        f"by {fall:.1f} % over the last tenth"
        for phase, fall in falls(entry.curves).items()
    ]
    rising = [
        f"its validation loss rose{'' if phase == 'autoencoder' else f', of its {phase}'}: at the end {rise:,.3g} "
        "times its least, whose weights are used"
        for phase, rise in rises(entry.curves).items()
    ]
    return [*dict.fromkeys(entry.symptoms), *falling, *rising]


def still_falling(entries: Sequence[Entry]) -> str:
    """The entries that were still falling at their ends, in a sentence; "" if none was."""
    found = {entry.name: max(falls(entry.curves).values(), default=0.0) for entry in entries}
    found = {name: fall for name, fall in found.items() if fall}
    if not found:
        return ""
    names = listed(f"`{name}`" for name in found)
    one = len(found) == 1
    was, it, its = ("was", "it", "its validation loss") if one else ("were", "them", "their validation losses")
    sizes = listed(f"{fall:.1f}" for fall in found.values())
    return (
        f"{names} {was} still falling at the end: {its} fell by {sizes} % over the last tenth of the training; more "
        f"steps would have lowered {it} further."
    )


def blown_up(entries: Sequence[Entry]) -> str:
    """The entries whose validation loss rose by the end, in a sentence; "" if there is none."""
    found = [entry.name for entry in entries if rises(entry.curves)]
    if not found:
        return ""
    its = "its" if len(found) == 1 else "their"
    return (
        f"The validation loss of {listed(f'`{name}`' for name in found)} rose to more than {RISE:g} times {its} least; "
        "the weights are those of the least. A lower learning rate may help, or more images."
    )


def falls(curves: Sequence[Curve]) -> Mapping[str, float]:
    """The fall over the last tenth in %, mean over the seeds, of each phase that is still falling.

    Args:
        curves: of one entry, one for each seed.
    """
    found: dict[str, list[float]] = {}
    lowest: dict[str, bool] = {}
    for curve in curves:
        for phase in dict.fromkeys(point["phase"] for point in curve):
            steps, losses = _validations(curve, phase)
            if len(steps) > 1 and losses[-1]:
                before = float(np.interp(steps[-1] - LAST * _last(curve, phase), steps, losses))
                found.setdefault(phase, []).append(100 * (before - losses[-1]) / abs(losses[-1]))
                lowest[phase] = lowest.get(phase, True) and losses[-1] == min(losses)
    return {phase: fmean(each) for phase, each in found.items() if lowest[phase] and fmean(each) > FALL}


def rises(curves: Sequence[Curve]) -> Mapping[str, float]:
    """The last validation loss ÷ the least, the largest over the seeds, of each phase where the loss at least doubled.

    Args:
        curves: of one entry, one for each seed. Losses of a density, which may be negative, have no such ratio.
    """
    found: dict[str, float] = {}
    for curve in curves:
        for phase in dict.fromkeys(point["phase"] for point in curve):
            _, losses = _validations(curve, phase)
            if losses and (least := min(losses)) > 0:
                found[phase] = max(found.get(phase, 0.0), losses[-1] / least)
    return {phase: rise for phase, rise in found.items() if rise >= RISE}


def _validations(curve: Curve, phase: str) -> tuple[list[float], list[float]]:
    """Steps and losses of a phase's validations."""
    points = [point for point in curve if point["phase"] == phase and "validation_loss" in point]
    return [point["step"] for point in points], [point["validation_loss"] for point in points]


def _last(curve: Curve, phase: str) -> Any:
    return max(point["step"] for point in curve if point["phase"] == phase)


def _size(entry: Entry) -> str:
    looks = "" if np.isnan(entry.looks) else f"{entry.looks:.1f} looks"
    return ", ".join(filter(None, (entry.code_size, looks)))
