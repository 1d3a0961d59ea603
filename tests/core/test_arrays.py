from pathlib import Path

import numpy as np
import pytest

from aelab.core import arrays


def test_what_is_written_in_pieces_is_read_as_one(tmp_path: Path) -> None:
    whole = np.arange(30, dtype=np.uint8).reshape(10, 3)
    arrays.write(tmp_path / "new" / "a.npy", whole.shape, [whole[:4], whole[4:]])
    read = arrays.read(tmp_path / "new" / "a.npy")
    assert isinstance(read, np.memmap)
    assert np.array_equal(read, whole)
    assert np.array_equal(np.load(tmp_path / "new" / "a.npy"), whole)


def test_what_was_read_cannot_be_written_to_but_a_copy_can(tmp_path: Path) -> None:
    arrays.write(tmp_path / "a.npy", (3,), [np.arange(3, dtype=np.uint8)])
    read = arrays.read(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="read-only"):
        read[0] = 9
    arrays.writable(read)[0] = 9
    assert arrays.read(tmp_path / "a.npy").tolist() == [0, 1, 2]


def test_rows_that_are_expected_are_still_the_same(tmp_path: Path) -> None:
    whole = np.arange(2**16, dtype=np.uint8).reshape(64, -1)
    arrays.write(tmp_path / "a.npy", whole.shape, [whole])
    read = arrays.read(tmp_path / "a.npy")
    arrays.expect(read, np.array([63, 0, 5]))
    assert np.array_equal(read, whole)


def test_released_pages_are_read_again(tmp_path: Path) -> None:
    arrays.write(tmp_path / "a.npy", (3,), [np.arange(3, dtype=np.uint8)])
    read = arrays.read(tmp_path / "a.npy")
    arrays.release(read)
    assert read.tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_pieces_are_all_rows_in_order_evenly_many_at_a_time(count: int) -> None:
    slices = list(arrays.pieces(count, arrays.CHUNK // 4))
    assert [i for piece in slices for i in range(count)[piece]] == list(range(count))
    assert all((piece.stop - piece.start) % 2 == 0 for piece in slices[:-1])


def test_selected_rows_come_in_order() -> None:
    array = np.arange(20, dtype=np.uint8).reshape(10, 2)
    assert np.array_equal(np.concatenate(list(arrays.select(array, np.array([7, 1, 3])))), array[[7, 1, 3]])


@pytest.mark.parametrize("large", [True, False])
def test_scratch_can_be_filled(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    monkeypatch.setattr(arrays, "LARGE", 10 if large else 1000)
    array = arrays.scratch((5, 4), np.int32)
    assert isinstance(array, np.memmap) == large
    array[:] = 7
    arrays.release(array)
    assert (array == 7).all()
