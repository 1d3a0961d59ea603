"""Batches from the device and from disk are equal, and so are the trainings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aelab.core import arrays
from aelab.data.pairs import Pairs
from aelab.models.base import VARIANTS
from aelab.training.batches import Resident, Streamed, source
from tests.support.golden import losses

CPU = torch.device("cpu")


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Pairs of 20 samples in 3 versions, on disk."""
    rng = np.random.default_rng(0)
    for name, count in (("inputs", 60), ("targets", 20)):
        arrays.write(tmp_path / name, (count, 2), [rng.integers(0, 256, (count, 2), np.uint8)])
    return Pairs(arrays.read(tmp_path / "inputs"), arrays.read(tmp_path / "targets"))


def epochs(made: Resident | Streamed, count: int) -> list[NDArray[np.uint8]]:
    """Copies of all batches of two epochs."""
    batches = []
    for epoch in (1, 2):
        made.start(epoch, np.random.default_rng(epoch).permutation(count))
        for _ in range(count // 6):
            made.fetch()
            batches += [tensor.numpy().copy() for tensor in made()]
    return batches


def test_both_give_the_same_batches(pairs: Pairs) -> None:
    resident, streamed = (epochs(kind(pairs, 6, CPU), 20) for kind in (Resident, Streamed))
    assert len(resident) == 2 * 3 * 2
    assert all(np.array_equal(a, b) for a, b in zip(resident, streamed, strict=True))


def test_an_epoch_that_breaks_off_leaves_nothing_behind(pairs: Pairs) -> None:
    made = Streamed(pairs, 6, CPU)
    made.start(1, np.arange(20))
    made.fetch()
    made.start(2, np.arange(20))
    made.fetch()
    assert np.array_equal(made()[1].numpy(), pairs.targets[:6])


@pytest.mark.parametrize(("room", "kind"), [(160, Resident), (159, Streamed), (0, Streamed)])
def test_what_does_not_fit_is_read_on_the_way(pairs: Pairs, room: int, kind: type) -> None:
    assert type(source(pairs, 6, CPU, room)) is kind


@pytest.mark.parametrize("name", VARIANTS.available())
def test_a_training_from_disk_gives_the_same_bits(name: str) -> None:
    assert losses(name, room=0) == losses(name)


def test_thinned_pairs_are_spread_over_all(pairs: Pairs) -> None:
    clean = Pairs(pairs.targets, pairs.targets)
    thin = clean.thinned(3)
    assert np.array_equal(thin.targets, pairs.targets[[0, 10, 19]])
    assert thin.inputs is thin.targets
    assert clean.thinned(50) is clean


def test_splitting_gives_all(pairs: Pairs) -> None:
    parts = list(Pairs(pairs.targets, pairs.targets).split(6))
    assert np.array_equal(np.concatenate([y.numpy() for _, y in parts]), pairs.targets)
