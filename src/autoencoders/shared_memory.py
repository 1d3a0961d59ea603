"""Sums over the processes of one machine, through memory that they share.

A process writes what it brings into a place of its own, says a word to the others, and reads theirs. To add up a few
numbers takes a fiftieth of a millisecond so, and gloo one or two: its threads have to wake each other.
"""

import functools
import os
import shutil
import tempfile
from multiprocessing.connection import Client, Listener
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from autoencoders.errors import UserError

MEMORY = Path("/dev/shm")  # noqa: S108 - a file there is never on a disk
ALIGNED = 64  # bytes
LONGEST = 100  # bytes of a socket's path, with some room: macOS takes 103, Linux 107


class SharedMemory:
    """What `size` processes add up, each of which constructs it at the same time and calls it for the same shapes.

    Each has two places, which it uses in turn. One that writes into the first again has had everybody's word for the
    second, and they gave that after they had read the first.

    Args:
        store: that all of them reach.
        rank: of this process.
        size: their number.

    Raises:
        UserError: the folder for temporary files has too long a path for a socket.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size, self.turn = rank, size, 0
        self.places = torch.empty(2, size, 0, dtype=torch.uint8)
        with (
            tempfile.TemporaryDirectory() as own,  # the library's own would stay behind where a process is killed
            Listener(_short(f"{own}/socket"), "AF_UNIX", backlog=size) as listener,
        ):
            store.set(f"process {rank}", f"{own}/socket")
            lower = [Client(store.get(f"process {other}").decode(), "AF_UNIX") for other in range(rank)]
            self.others = [*lower, *(listener.accept() for _ in range(rank + 1, size))]

    def add_up(self, x: Tensor) -> Tensor:
        """The sum over all processes in the order of their ranks, in place.

        Raises:
            EOFError, ConnectionError: another process is gone.
            OSError: there is no room for what they bring.
        """
        if x.nbytes > self.places.shape[2]:
            self._make_room(x.nbytes)
        self.turn = 1 - self.turn
        brought = self.places[self.turn, :, : x.nbytes].view(x.dtype)
        brought[self.rank] = x.flatten()
        self._meet()
        return x.copy_(functools.reduce(torch.add, brought).view(x.shape))

    def _meet(self) -> None:
        for other in self.others:
            other.send_bytes(b"here")
        for other in self.others:
            other.recv_bytes()

    def _make_room(self, needed: int) -> None:
        """Have the first process make a file for all, which has no name any more when all have opened it."""
        each = -(-needed // ALIGNED) * ALIGNED
        total = 2 * self.size * each
        if self.rank:
            self._open(self.others[0].recv_bytes().decode(), total)
            self._meet()
            return
        roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > total
        with tempfile.NamedTemporaryFile(dir=MEMORY if roomy else None) as file:
            file.write(bytes(total))  # a file with holes would end the process where it has no room
            file.flush()
            for other in self.others:
                other.send_bytes(file.name.encode())
            self._open(file.name, total)
            self._meet()

    def _open(self, name: str, total: int) -> None:
        self.places = torch.from_file(name, shared=True, size=total, dtype=torch.uint8).view(2, self.size, -1)


def _short(path: str) -> str:
    if len(os.fsencode(path)) > LONGEST:
        msg = f"TMPDIR: {Path(path).parent} is too long a path for a socket, {LONGEST} bytes at most; set a shorter one"
        raise UserError(msg)
    return path
