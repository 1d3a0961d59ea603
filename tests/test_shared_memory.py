"""Sums through shared memory, by threads in the place of processes: torch's own sums are what they have to be."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import distributed

from autoencoders import shared_memory
from autoencoders.errors import UserError
from autoencoders.shared_memory import SharedMemory

T = TypeVar("T")


class Slow(SharedMemory):
    """Its second process takes its time to read what the others have brought."""

    def _meet(self) -> None:
        super()._meet()
        time.sleep(0.02 * self.rank)


class OnePlace(Slow):
    """Without the second place."""

    @property
    def turn(self) -> int:
        return 0

    @turn.setter
    def turn(self, _: int) -> None: ...


def together(size: int, work: Callable[[SharedMemory], T], kind: type[SharedMemory] = SharedMemory) -> list[T]:
    """What each of `size` threads makes of its end."""
    store = distributed.HashStore()  # type: ignore[attr-defined]
    with ThreadPoolExecutor(size) as pool:
        return [*pool.map(lambda rank: work(kind(store, rank, size)), range(size))]


def brought(rank: int, turn: int, shape: tuple[int, ...] = (5,), dtype: Any = torch.float32) -> torch.Tensor:
    """What a process brings, other numbers at every turn."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(10 * turn + rank), dtype=dtype)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_everyone_has_the_sum_in_the_order_of_the_ranks(size: int) -> None:
    shapes: list[tuple[int, ...]] = [(5,), (3, 2), (40, 7, 3), (1,), ()]  # more room is made for the third
    cases = [(shape, dtype) for shape in shapes for dtype in (torch.float32, torch.float64)]

    def work(end: SharedMemory) -> list[torch.Tensor]:
        given = [brought(end.rank, turn, *case) for turn, case in enumerate(cases)]
        sums = [end.add_up(x) for x in given]
        assert all(x is given for x, given in zip(sums, given, strict=True))
        return sums

    for found in together(size, work):
        for turn, (case, x) in enumerate(zip(cases, found, strict=True)):
            expected = brought(0, turn, *case)
            for rank in range(1, size):
                expected = expected + brought(rank, turn, *case)
            assert torch.equal(x, expected)


def test_any_layout() -> None:
    def work(end: SharedMemory) -> torch.Tensor:
        return end.add_up(brought(end.rank, 0, (2, 3, 4, 4)).to(memory_format=torch.channels_last))

    for found in together(2, work):
        assert torch.equal(found, brought(0, 0, (2, 3, 4, 4)) + brought(1, 0, (2, 3, 4, 4)))


@pytest.mark.parametrize(("kind", "right"), [(Slow, True), (OnePlace, False)])
def test_a_slow_reader_has_the_same_sums(kind: type[SharedMemory], right: bool) -> None:  # noqa: FBT001
    turns = 6

    def work(end: SharedMemory) -> list[torch.Tensor]:
        return [end.add_up(brought(end.rank, turn)) for turn in range(turns)]

    expected = [brought(0, turn) + brought(1, turn) for turn in range(turns)]
    first, second = together(2, work, kind)
    assert all(map(torch.equal, first, expected))
    assert all(map(torch.equal, second, expected)) is right


def test_one_that_leaves_is_noticed() -> None:
    def work(end: SharedMemory) -> None:
        end.add_up(brought(end.rank, 0))
        if end.rank == 1:
            for other in end.others:
                other.close()
        else:
            with pytest.raises((EOFError, ConnectionError)):
                end.add_up(brought(0, 1))

    together(2, work)


def test_where_memory_has_no_room_a_file_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "MEMORY", tmp_path / "none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def work(end: SharedMemory) -> torch.Tensor:
        return end.add_up(brought(end.rank, 0))

    for found in together(2, work):
        assert torch.equal(found, brought(0, 0) + brought(1, 0))
    assert not [*tmp_path.iterdir()]  # it has no name any more


def test_too_long_a_path_for_a_socket_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (long := tmp_path / ("x" * 100)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(UserError, match=r"TMPDIR: .* too long a path"):
        together(2, lambda end: end.rank)
