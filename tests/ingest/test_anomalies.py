"""Removed classes are in no split, and all other images stay."""

import numpy as np
import pytest

from aelab.core.errors import UserError
from aelab.data.datasets import Data, Split
from aelab.ingest.anomalies import set_apart

LABELS = np.arange(60, dtype=np.uint8) % 3
EVERYTHING = Split(np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1).repeat(2, 2).repeat(2, 3), LABELS)
ROWS = {"train": np.arange(30), "validation": np.arange(30, 42), "test": np.arange(42, 60)}
DATA = Data((1, 2, 2), {name: (EVERYTHING, rows) for name, rows in ROWS.items()})


@pytest.mark.parametrize(("classes", "names"), [([1], []), (["b"], ["a", "b", "c"]), ([1], ["a", "b", "c"])])
def test_a_class_is_in_no_split_and_its_test_images_are_the_anomalies(classes: list[int], names: list[str]) -> None:
    rest, strange = set_apart(DATA, classes, names, "key")
    for name, rows in ROWS.items():
        kept = rest.split(name)
        assert set(kept.labels) == {0, 2}
        np.testing.assert_array_equal(kept.images, EVERYTHING.images[rows[LABELS[rows] != 1]])
    np.testing.assert_array_equal(strange, EVERYTHING.images[42:][LABELS[42:] == 1])


@pytest.mark.parametrize(
    ("classes", "names", "problem"),
    [
        ([7], [], "key names 7, which is not a class of these images; the classes are 0, 1, 2"),
        (["d"], ["a", "b", "c"], "key names 'd', which is not a class of these images; the classes are a, b, c"),
        (["b"], [], "key names 'b', which is not a class"),
        ([0, 1, 2], [], "key leaves 0 images of other classes for train: at least 2 must remain"),
    ],
)
def test_what_cannot_be_set_apart_is_a_sentence(classes: list[int], names: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        set_apart(DATA, classes, names, "key")


def test_a_class_that_the_test_lacks_is_a_sentence() -> None:
    rows = {**DATA.splits, "test": (EVERYTHING, np.array([42, 44, 45, 47, 43]))}
    with pytest.raises(UserError, match="classes with 1 images in the test split: at least 2 are needed"):
        set_apart(Data((1, 2, 2), rows), [1], [], "key")
