"""Arrays on disk as `.npy` files, written and read piece by piece: neither needs memory for the whole array."""

import math
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aelab.core.progress import counted

Array: TypeAlias = NDArray[Any]

CHUNK = 2**24  # bytes of a piece
LARGE = 2**28  # bytes from which on an array is kept on disk


def write(path: Path, shape: tuple[int, ...], pieces: Iterable[Array], dtype: DTypeLike = np.uint8) -> None:
    """Write an array of `shape` that comes in `pieces`, one below the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in counted(pieces, shape[0], len):
            file.write(np.ascontiguousarray(piece, dtype).data)


def read(path: Path) -> Array:
    """An array on disk, mapped into memory, read-only: for one to write to the kernel would set memory aside."""
    return np.load(path, mmap_mode="r")


def pieces(count: int, row_bytes: int) -> Iterator[slice]:
    """Slices of `count` rows that make pieces of about `CHUNK` bytes, all but the last of an even number of rows."""
    rows = max(2, CHUNK // max(1, row_bytes) // 2 * 2)
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def select(array: Array, indices: NDArray[np.int64]) -> Iterator[Array]:
    """The rows of `array` at `indices`, in pieces."""
    for piece in pieces(len(indices), array[:1].nbytes):
        yield array[indices[piece]]
        release(array)


def selected(array: Array, indices: NDArray[np.int64]) -> Array:
    """The rows of `array` at `indices`; on disk where they are many."""
    found = scratch((len(indices), *array.shape[1:]), array.dtype)
    start = 0
    for piece in select(array, indices):
        found[start : start + len(piece)] = piece
        start += len(piece)
    release(found)
    return found


def release(array: Array) -> None:
    """Let go of the memory that pages of a mapped array take; they are read again when they are needed."""
    if (mapped := _mapped(array)) is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def expect(array: Array, rows: NDArray[np.int64]) -> None:
    """Have the kernel read `rows` of a mapped array, all at once; touched one by one, each would be waited for."""
    if (mapped := _mapped(array)) is None or not hasattr(mmap, "MADV_WILLNEED"):
        return
    first = array.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    size = array[:1].nbytes
    for row in rows.tolist():
        start = first + row * size
        page = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def writable(array: Array) -> Array:
    """An array that torch takes: one that is read-only, or runs backwards, is copied into memory."""
    return array if array.flags.writeable and min(array.strides, default=0) >= 0 else np.array(array, order="C")


def _mapped(array: Array) -> mmap.mmap | None:
    """What numpy has no name for; a copy of a mapped array is of the same class without being mapped."""
    return getattr(array, "_mmap", None) if isinstance(array, np.memmap) else None


def scratch(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An array to be filled; a large one lies in a temporary file, where `tempfile.tempdir` says, that goes with it."""
    if math.prod(shape) * np.dtype(dtype).itemsize < LARGE:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=shape)
