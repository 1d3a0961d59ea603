"""Images that are to be told from those of the test: the classes of a data set that are set apart."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from aelab.core.errors import UserError
from aelab.data.datasets import FEWEST, Bytes, Data


def set_apart(data: Data, classes: Sequence[int | str], names: Sequence[str], key: str) -> tuple[Data, Bytes]:
    """The data set without some classes in any split, and the images of these classes in its test split.

    Args:
        data: that has them.
        classes: by number, or by name.
        names: of all classes, in the order of their numbers; empty where they have none.
        key: what the list is called in a message.

    Raises:
        UserError: there is no such class, the test split has too few images of them, or too few others are left.
    """
    there = sorted(
        {int(each) for everything, rows in data.splits.values() for each in np.unique(everything.labels[rows])}
    )
    known = {names[each]: each for each in there if names} | {each: each for each in there}
    if missing := [each for each in classes if each not in known]:
        told = ", ".join(map(str, [names[each] for each in there] if names else there))
        msg = f"{key} names {missing[0]!r}, which is no class of these images; the classes are {told}"
        raise UserError(msg)
    strange = [known[each] for each in classes]
    kept = {}
    for name, (everything, rows) in data.splits.items():
        left = rows[~np.isin(everything.labels[rows], strange)]
        if len(left) < FEWEST:
            msg = f"{key} leaves {len(left)} images of other classes for {name}: at least {FEWEST} have to be left"
            raise UserError(msg)
        kept[name] = everything, left
    everything, rows = data.splits["test"]
    found = everything.images[rows[np.isin(everything.labels[rows], strange)]]
    if len(found) < FEWEST:
        msg = f"{key} names classes of which the test split has {len(found)} images: at least {FEWEST} have to be there"
        raise UserError(msg)
    return replace(data, splits=kept), found
