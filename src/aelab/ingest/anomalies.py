"""Anomalies for the tests of anomaly detection: test images of classes that are removed from all splits."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from aelab.core.errors import UserError
from aelab.data.datasets import FEWEST, Bytes, Data


def set_apart(data: Data, classes: Sequence[int | str], names: Sequence[str], key: str) -> tuple[Data, Bytes]:
    """Remove classes from all splits of a data set, and return the removed test images as anomalies.

    Args:
        data: Data set with all classes.
        classes: Numbers or names of the classes to remove.
        names: Names of all classes, in the order of the class numbers; empty if the classes have no names.
        key: Name of the setting that lists the classes, for messages.

    Returns:
        The data set without the classes, and the images (N, C, H, W) that were removed from its test split.

    Raises:
        UserError: The data set lacks one of the classes, or has fewer than `FEWEST` test images of the classes. The
            error is also raised if a split would keep fewer than `FEWEST` images of other classes.
    """
    there = sorted(
        {int(each) for everything, rows in data.splits.values() for each in np.unique(everything.labels[rows])}
    )
    known = {names[each]: each for each in there if names} | {each: each for each in there}
    if missing := [each for each in classes if each not in known]:
        told = ", ".join(map(str, [names[each] for each in there] if names else there))
        msg = f"{key} names {missing[0]!r}, which is not a class of these images; the classes are {told}"
        raise UserError(msg)
    strange = [known[each] for each in classes]
    kept = {}
    for name, (everything, rows) in data.splits.items():
        left = rows[~np.isin(everything.labels[rows], strange)]
        if len(left) < FEWEST:
            msg = f"{key} leaves {len(left)} images of other classes for {name}: at least {FEWEST} must remain"
            raise UserError(msg)
        kept[name] = everything, left
    everything, rows = data.splits["test"]
    found = everything.images[rows[np.isin(everything.labels[rows], strange)]]
    if len(found) < FEWEST:
        msg = f"{key} names classes with {len(found)} images in the test split: at least {FEWEST} are needed"
        raise UserError(msg)
    return replace(data, splits=kept), found
