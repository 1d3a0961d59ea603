"""Sources of mini-batches. A source keeps all data in the device's memory, or reads data from disk during the training.

Both kinds of source return the same batches, and a CUDA graph can include their calls.

A sample is a target, such as an image, and R versions of its input, such as R corruptions of the image. In epoch t, the
model sees version (i + t) mod R of sample i.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelab.core import arrays, process_group
from aelab.data.pairs import Pairs

AHEAD = 2  # batches to read from disk in advance
AT_ONCE = 16  # samples to read before the memory of their file pages is freed; a sample may occupy 2 MiB of pages


class Source(Protocol):
    """Source of the mini-batches of each epoch. The samples have the type in which they are stored, such as uint8.

    If several processes train one model, each process gets only its own samples of a batch.

    Attributes:
        batch: number of samples in a batch, of all processes together.
    """

    batch: int

    def start(self, epoch: int, order: NDArray[np.int64], done: int = 0) -> None:
        """Begin an epoch.

        Args:
            epoch: number of the epoch, which selects the version of each input.
            order: indices of all samples in the order of this epoch, (N,).
            done: number of batches to skip at the start of the epoch. A resumed training has already used them.
        """

    def fetch(self) -> None:
        """Prepare the next batch. The training loop calls this method outside of the CUDA graph."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the prepared batch, on the device. The CUDA graph includes this call."""


def source(pairs: Pairs, batch: int, device: torch.device, room: int) -> Source:
    """Make a source of batches.

    Args:
        pairs: targets (N, …), and R versions of the inputs, (R·N, …).
        batch: number of samples in a batch, of all processes together.
        device: the device of the training.
        room: largest size of `pairs`, in bytes, that may be kept on the device.

    Returns:
        A `Resident` source if `pairs` has at most `room` bytes, otherwise a `Streamed` source.
    """
    return (Resident if pairs.nbytes <= room else Streamed)(pairs, batch, device)


class Resident:
    """Source that keeps all pairs on the device and selects each batch there."""

    def __init__(self, pairs: Pairs, batch: int, device: torch.device) -> None:
        self.targets = torch.from_numpy(arrays.writable(pairs.targets)).to(device)
        self.inputs = self.targets
        if pairs.inputs is not pairs.targets:
            self.inputs = torch.from_numpy(arrays.writable(pairs.inputs)).to(device)
        self.batch, self.rows = batch, process_group.own_samples(batch)
        per_epoch, own = len(pairs.targets) // batch, self.rows.stop - self.rows.start
        self.batches = torch.zeros(
            per_epoch, own, dtype=torch.int64, device=device
        )  # indices of the targets in each batch of this epoch
        self.seen = torch.zeros_like(self.batches)  # indices of the inputs in each batch of this epoch
        self.position = torch.zeros(1, dtype=torch.int64, device=device)

    def start(self, epoch: int, order: NDArray[np.int64], done: int = 0) -> None:
        """Begin an epoch, or continue after `done` batches."""
        chosen = batches_of(order, self.batch)[:, self.rows]
        for tensor, rows in (
            (self.batches, chosen),
            (self.seen, version(chosen, epoch, len(self.targets), len(self.inputs))),
        ):
            host = torch.from_numpy(rows)
            tensor.copy_(host.pin_memory() if tensor.is_cuda else host, non_blocking=True)
        self.position.fill_(done)

    def fetch(self) -> None:
        """Do nothing: all batches are on the device."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return the batch at the current position, and advance the position."""
        y = self.targets[self.batches.index_select(0, self.position)[0]]
        x = y if self.inputs is self.targets else self.inputs[self.seen.index_select(0, self.position)[0]]
        self.position += 1
        return x, y


class Streamed:
    """Source that reads the next batches from disk in a thread, while the training uses the current batch."""

    def __init__(self, pairs: Pairs, batch: int, device: torch.device) -> None:
        self.pairs, self.batch, self.rows = pairs, batch, process_group.own_samples(batch)
        self.one = pairs.inputs is pairs.targets
        self.reader = ThreadPoolExecutor(1, "reader")
        self.free = deque(self._buffers(device) for _ in range(AHEAD + 1))
        self.coming: deque[Future[Buffers]] = deque()
        self.todo: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]] = iter(())
        self.x, self.y = (torch.empty_like(tensor, device=device) for tensor in self.free[0].tensors)

    def start(self, epoch: int, order: NDArray[np.int64], done: int = 0) -> None:
        """Begin an epoch, or continue after `done` batches."""
        while self.coming:  # batches that the thread has read, but that the training has not used
            self.free.append(self.coming.popleft().result())
        chosen = batches_of(order, self.batch)[:, self.rows]
        seen = version(chosen, epoch, len(self.pairs.targets), len(self.pairs.inputs))
        self.todo = zip(chosen[done:], seen[done:], strict=True)
        for _ in range(AHEAD):
            self._ask()

    def fetch(self) -> None:
        """Copy the next batch to the device, and start to read a further batch from disk."""
        buffers = self.coming.popleft().result()
        self.y.copy_(buffers.tensors[1], non_blocking=True)
        if not self.one:
            self.x.copy_(buffers.tensors[0], non_blocking=True)
        if buffers.moved is not None:
            buffers.moved.record()
        self.free.append(buffers)
        self._ask()

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return the batch from the last call of `fetch`."""
        return (self.y if self.one else self.x), self.y

    def _ask(self) -> None:
        """Make the thread read the next batch, unless it has read the last batch of the epoch."""
        if (rows := next(self.todo, None)) is not None:
            buffers = self.free.popleft()
            if buffers.moved is not None:
                buffers.moved.synchronize()  # the device may still copy from these buffers
            self.coming.append(self.reader.submit(self._fill, buffers, *rows))

    def _fill(self, buffers: "Buffers", chosen: NDArray[np.int64], seen: NDArray[np.int64]) -> "Buffers":
        """Read the targets at the indices `chosen` and the inputs at the indices `seen` from disk into `buffers`."""
        wanted = list(zip(buffers.tensors, self.pairs, (seen, chosen), strict=True))[self.one :]
        for _, array, rows in wanted:
            arrays.expect(array, rows)
        for tensor, array, rows in wanted:
            out = tensor.numpy()
            for part in (slice(start, start + AT_ONCE) for start in range(0, len(rows), AT_ONCE)):
                np.take(array, rows[part], axis=0, out=out[part], mode="clip")  # mode "raise" would copy twice
                arrays.release(array)
        return buffers

    def _buffers(self, device: torch.device) -> "Buffers":
        """Allocate memory on the host for this process's samples of one batch."""
        gpu = device.type == "cuda"
        own = self.rows.stop - self.rows.start
        like = [torch.from_numpy(np.empty((own, *each.shape[1:]), each.dtype)) for each in self.pairs]
        tensors = tuple(tensor.pin_memory() if gpu else tensor for tensor in like)
        return Buffers(tensors, torch.cuda.Event() if gpu else None)


class Buffers(NamedTuple):
    """Memory for one batch on the host.

    Attributes:
        tensors: inputs and targets.
        moved: event that the GPU reaches after it has copied the tensors; None on a CPU.
    """

    tensors: tuple[Tensor, ...]
    moved: torch.cuda.Event | None


def batches_of(order: NDArray[np.int64], batch: int) -> NDArray[np.int64]:
    """Split the indices `order`, (N,), into full batches, (⌊N/batch⌋, batch). The remaining indices are left out."""
    return order[: len(order) // batch * batch].reshape(-1, batch)


def version(chosen: NDArray[np.int64], epoch: int, count: int, rows: int) -> NDArray[np.int64]:
    """Return the indices of the inputs of the samples `chosen` in an epoch.

    The inputs have R versions. The array of inputs has version 0 of all N inputs, then version 1, and so on.

    Args:
        chosen: indices of samples, in an array of any shape.
        epoch: number t of the epoch, in which sample i has the version (i + t) mod R.
        count: N, the number of samples.
        rows: R·N, the number of rows in the array of inputs.

    Returns:
        Indices of inputs, with the shape of `chosen`.
    """
    return (chosen + epoch) % (rows // count) * count + chosen
