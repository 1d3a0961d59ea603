"""Arrays in `.npy` files, written and read in pieces of several rows. Memory never holds a whole large array."""

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

CHUNK = 2**24  # bytes per piece
LARGE = 2**28  # bytes; `scratch` keeps arrays of at least this size on disk


def write(path: Path, shape: tuple[int, ...], pieces: Iterable[Array], dtype: DTypeLike = np.uint8) -> None:
    """Write an array with `shape` to the file `path`. The `pieces` are groups of its rows, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in counted(pieces, shape[0], len):
            file.write(np.ascontiguousarray(piece, dtype).data)


def read(path: Path) -> Array:
    """Map the file `path` into memory as a read-only array. For a writable array, the kernel would reserve memory."""
    return np.load(path, mmap_mode="r")


def pieces(count: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices that divide `count` rows of `row_bytes` bytes each into pieces of about `CHUNK` bytes.

    Every piece except the last has an even number of rows (`corruption.mixture` needs even numbers).
    """
    rows = max(2, CHUNK // max(1, row_bytes) // 2 * 2)
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def select(array: Array, indices: NDArray[np.int64]) -> Iterator[Array]:
    """Yield the rows of `array` at `indices`, in pieces."""
    for piece in pieces(len(indices), array[:1].nbytes):
        yield array[indices[piece]]
        release(array)


def selected(array: Array, indices: NDArray[np.int64]) -> Array:
    """Return the rows of `array` at `indices` as a new array from `scratch`, which keeps large arrays on disk."""
    found = scratch((len(indices), *array.shape[1:]), array.dtype)
    start = 0
    for piece in select(array, indices):
        found[start : start + len(piece)] = piece
        start += len(piece)
    release(found)
    return found


def release(array: Array) -> None:
    """Free the memory of a memory-mapped array. At the next use, the kernel reads the values from the file again."""
    if (mapped := _mapped(array)) is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def expect(array: Array, rows: NDArray[np.int64]) -> None:
    """Tell the kernel to read `rows` of a memory-mapped array now, so that the process does not wait for each row."""
    if (mapped := _mapped(array)) is None or not hasattr(mmap, "MADV_WILLNEED"):
        return
    first = array.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    size = array[:1].nbytes
    for row in rows.tolist():
        start = first + row * size
        page = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def writable(array: Array) -> Array:
    """Return an array for `torch.from_numpy`: a copy if `array` is read-only or has negative strides, else `array`."""
    return array if array.flags.writeable and min(array.strides, default=0) >= 0 else np.array(array, order="C")


def _mapped(array: Array) -> mmap.mmap | None:
    """Memory map of the array, or None. A copy of a memory-mapped array has the type `np.memmap`, too, but no map."""
    return getattr(array, "_mmap", None) if isinstance(array, np.memmap) else None


def scratch(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return a new array without initial values.

    An array of at least `LARGE` bytes is stored in a temporary file, which is deleted with the array. To choose the
    folder of the file, set `tempfile.tempdir`.
    """
    if math.prod(shape) * np.dtype(dtype).itemsize < LARGE:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=shape)
