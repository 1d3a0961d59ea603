"""Where a training step finds its batches: on the device, or read ahead from disk where the images do not fit there.

Both give the same batches, and a recorded step can use either.
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

AHEAD = 2  # batches that are read before they are needed
AT_ONCE = 16  # rows read before their pages are let go of: with each the kernel may map 2 MiB that it has at hand


class Source(Protocol):
    """Batches of the samples of an epoch, as stored; where several processes share a training, its rows of them."""

    batch: int  # samples in one, of all processes

    def start(self, epoch: int, order: NDArray[np.int64], done: int = 0) -> None:
        """Begin an epoch whose samples come in `order`; or go on with it after `done` batches."""

    def fetch(self) -> None:
        """Have the next batch ready; outside of what is recorded."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the next batch, on the device; inside of what is recorded."""


def source(pairs: Pairs, batch: int, device: torch.device, room: int) -> Source:
    """A source of batches of `batch` samples, which keeps all pairs on the device if they take at most `room` bytes.

    The inputs (R·N, …) are R versions of the samples; sample i of epoch t is seen in version (i + t) mod R.
    """
    return (Resident if pairs.nbytes <= room else Streamed)(pairs, batch, device)


class Resident:
    """All pairs on the device, where each batch is picked out."""

    def __init__(self, pairs: Pairs, batch: int, device: torch.device) -> None:
        self.targets = torch.from_numpy(arrays.writable(pairs.targets)).to(device)
        self.inputs = self.targets
        if pairs.inputs is not pairs.targets:
            self.inputs = torch.from_numpy(arrays.writable(pairs.inputs)).to(device)
        self.batch, self.rows = batch, process_group.rows(batch)
        per_epoch, own = len(pairs.targets) // batch, self.rows.stop - self.rows.start
        self.batches = torch.zeros(per_epoch, own, dtype=torch.int64, device=device)  # of this epoch, indices
        self.seen = torch.zeros_like(self.batches)  # the same among the versions
        self.position = torch.zeros(1, dtype=torch.int64, device=device)

    def start(self, epoch: int, order: NDArray[np.int64], done: int = 0) -> None:
        """Begin an epoch, or go on with it."""
        chosen = batches_of(order, self.batch)[:, self.rows]
        for tensor, rows in (
            (self.batches, chosen),
            (self.seen, version(chosen, epoch, len(self.targets), len(self.inputs))),
        ):
            host = torch.from_numpy(rows)
            tensor.copy_(host.pin_memory() if tensor.is_cuda else host, non_blocking=True)
        self.position.fill_(done)

    def fetch(self) -> None:
        """Nothing is left to do."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The batch at the position, which moves on."""
        y = self.targets[self.batches.index_select(0, self.position)[0]]
        x = y if self.inputs is self.targets else self.inputs[self.seen.index_select(0, self.position)[0]]
        self.position += 1
        return x, y


class Streamed:
    """Batches that a thread reads from disk while the one before is learned from."""

    def __init__(self, pairs: Pairs, batch: int, device: torch.device) -> None:
        self.pairs, self.batch, self.rows = pairs, batch, process_group.rows(batch)
        self.one = pairs.inputs is pairs.targets
        self.reader = ThreadPoolExecutor(1, "reader")
        self.free = deque(self._buffers(device) for _ in range(AHEAD + 1))
        self.coming: deque[Future[Buffers]] = deque()
        self.todo: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]] = iter(())
        self.x, self.y = (torch.empty_like(tensor, device=device) for tensor in self.free[0].tensors)

    def start(self, epoch: int, order: NDArray[np.int64], done: int = 0) -> None:
        """Begin an epoch, or go on with it."""
        while self.coming:  # what an epoch that broke off had asked for
            self.free.append(self.coming.popleft().result())
        chosen = batches_of(order, self.batch)[:, self.rows]
        seen = version(chosen, epoch, len(self.pairs.targets), len(self.pairs.inputs))
        self.todo = zip(chosen[done:], seen[done:], strict=True)
        for _ in range(AHEAD):
            self._ask()

    def fetch(self) -> None:
        """Move the batch that was read first to the device, and have another one read."""
        buffers = self.coming.popleft().result()
        self.y.copy_(buffers.tensors[1], non_blocking=True)
        if not self.one:
            self.x.copy_(buffers.tensors[0], non_blocking=True)
        if buffers.moved is not None:
            buffers.moved.record()
        self.free.append(buffers)
        self._ask()

    def __call__(self) -> tuple[Tensor, Tensor]:
        """What was fetched."""
        return (self.y if self.one else self.x), self.y

    def _ask(self) -> None:
        if (rows := next(self.todo, None)) is not None:
            buffers = self.free.popleft()
            if buffers.moved is not None:
                buffers.moved.synchronize()  # the device may still be reading what was fetched last from it
            self.coming.append(self.reader.submit(self._fill, buffers, *rows))

    def _fill(self, buffers: "Buffers", chosen: NDArray[np.int64], seen: NDArray[np.int64]) -> "Buffers":
        wanted = list(zip(buffers.tensors, self.pairs, (seen, chosen), strict=True))[self.one :]
        for _, array, rows in wanted:
            arrays.expect(array, rows)
        for tensor, array, rows in wanted:
            out = tensor.numpy()
            for part in (slice(start, start + AT_ONCE) for start in range(0, len(rows), AT_ONCE)):
                np.take(array, rows[part], axis=0, out=out[part], mode="clip")  # "raise" would copy once more
                arrays.release(array)
        return buffers

    def _buffers(self, device: torch.device) -> "Buffers":
        gpu = device.type == "cuda"
        own = self.rows.stop - self.rows.start
        like = [torch.from_numpy(np.empty((own, *each.shape[1:]), each.dtype)) for each in self.pairs]
        tensors = tuple(tensor.pin_memory() if gpu else tensor for tensor in like)
        return Buffers(tensors, torch.cuda.Event() if gpu else None)


class Buffers(NamedTuple):
    """One batch on the host: inputs and targets, and when the device has taken them."""

    tensors: tuple[Tensor, ...]
    moved: torch.cuda.Event | None


def batches_of(order: NDArray[np.int64], batch: int) -> NDArray[np.int64]:
    """The full batches of an epoch whose samples come in `order`: (batches, batch)."""
    return order[: len(order) // batch * batch].reshape(-1, batch)


def version(chosen: NDArray[np.int64], epoch: int, count: int, rows: int) -> NDArray[np.int64]:
    """Where the inputs of the samples `chosen` of `count` lie among the `rows` = R·count of all versions."""
    return (chosen + epoch) % (rows // count) * count + chosen
