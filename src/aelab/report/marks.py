"""Warnings (⚠) beside an entry's name: a fault of the model, a training that ended too early, a training that blew up.

An entry is a model configuration in `params.yaml`. Its validation loss is still falling at the end if two conditions
are met. For each seed, the last loss is the lowest. Over the last tenth of the steps, the loss fell by more than 0.5 %
of its last value (mean over the seeds). Each phase of a training, such as the training of a learned prior, has its own
loss.

A learning-rate schedule that ends at 0 flattens every curve, so more steps can gain much more than a small fall
suggests. Two examples are from MNIST, with the schedule `one_cycle`. The loss of an AE fell by 0.9 % over the last
tenth of the steps; with twice the steps, the last loss was 12 % lower. The loss of a VAE fell by 0.2 %; with twice the
steps, the last loss was 1.5 % lower.

A training blew up if its last validation loss is at least twice its lowest. The kept weights have the lowest loss, so
the metrics look like the metrics of a short training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from aelab.report.evidence import Curve, Entry
from aelab.report.tables import listed

# A loss is still falling if it fell by more than `FALL` % over the last share `LAST` of the steps.
LAST, FALL = 0.1, 0.5
RISE = 2.0  # A training blew up if its last validation loss ÷ its lowest is at least this number.


@dataclass(frozen=True)
class Name:
    """Text beside an entry's name.

    Attributes:
        size: size of the code, and how often training saw each image; empty if both are unknown.
        marks: the warnings of the sign ⚠.
        floor: whether the entry is a floor, a baseline without training.
    """

    size: str
    marks: Sequence[str]
    floor: bool


def names(entries: Sequence[Entry]) -> dict[str, Name]:
    """Return the text beside each entry's name, by entry."""
    return {entry.name: Name(_size(entry), marks(entry), entry.floor) for entry in entries}


def marks(entry: Entry) -> list[str]:
    """Return the warnings about an entry; an empty list if there are none."""
    falling = [
        f"validation loss{'' if phase == 'autoencoder' else f' of the {phase}'} still falling at the end: "
        f"by {fall:.1f} % over the last tenth"
        for phase, fall in falls(entry.curves).items()
    ]
    rising = [
        f"validation loss{'' if phase == 'autoencoder' else f' of the {phase}'} rose to {rise:,.3g} times its lowest "
        "value, whose weights are used"
        for phase, rise in rises(entry.curves).items()
    ]
    return [*dict.fromkeys(entry.symptoms), *falling, *rising]


def still_falling(entries: Sequence[Entry]) -> str:
    """Return a sentence about the entries whose losses were still falling at the end; empty if there are none."""
    found = {entry.name: max(falls(entry.curves).values(), default=0.0) for entry in entries}
    found = {name: fall for name, fall in found.items() if fall}
    if not found:
        return ""
    names = listed(f"`{name}`" for name in found)
    one = len(found) == 1
    losses, were, it = ("loss", "was", "it") if one else ("losses", "were", "them")
    sizes = listed(f"{fall:.1f}" for fall in found.values())
    return (
        f"The validation {losses} of {names} {were} still falling at the end: by {sizes} % over the last tenth of the "
        f"steps. More steps would have lowered {it} further."
    )


def blown_up(entries: Sequence[Entry]) -> str:
    """Return a sentence about the entries whose training blew up; empty if there are none."""
    found = [entry.name for entry in entries if rises(entry.curves)]
    if not found:
        return ""
    its = "its" if len(found) == 1 else "their"
    return (
        f"The validation loss of {listed(f'`{name}`' for name in found)} rose to at least {RISE:g} times {its} lowest "
        "value, whose weights are used. A lower learning rate or more images may help."
    )


def falls(curves: Sequence[Curve]) -> Mapping[str, float]:
    """Return each phase whose loss is still falling, with its fall over the last tenth of the steps in %.

    The fall is a mean over the seeds.

    Args:
        curves: curves of one entry, one for each seed.
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
    """Return each phase that blew up, with its last validation loss ÷ its lowest: the largest ratio of the seeds.

    A curve with a loss of 0 or less, as from a Gaussian likelihood, has no ratio.

    Args:
        curves: curves of one entry, one for each seed.
    """
    found: dict[str, float] = {}
    for curve in curves:
        for phase in dict.fromkeys(point["phase"] for point in curve):
            _, losses = _validations(curve, phase)
            if losses and (least := min(losses)) > 0:
                found[phase] = max(found.get(phase, 0.0), losses[-1] / least)
    return {phase: rise for phase, rise in found.items() if rise >= RISE}


def _validations(curve: Curve, phase: str) -> tuple[list[float], list[float]]:
    """Return the steps of a phase's validations, and the validation losses."""
    points = [point for point in curve if point["phase"] == phase and "validation_loss" in point]
    return [point["step"] for point in points], [point["validation_loss"] for point in points]


def _last(curve: Curve, phase: str) -> Any:
    return max(point["step"] for point in curve if point["phase"] == phase)


def _size(entry: Entry) -> str:
    looks = "" if np.isnan(entry.looks) else f"{entry.looks:.1f} looks"
    return ", ".join(filter(None, (entry.code_size, looks)))
