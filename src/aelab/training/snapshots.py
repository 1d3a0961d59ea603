"""Snapshots of a training in a folder. A snapshot is the state of a training, from which another process can resume.

A new snapshot is first written to `new.safetensors`. Then `last.safetensors` is renamed to `previous.safetensors`, and
`new.safetensors` to `last.safetensors`. So if a process dies while it writes, a complete snapshot remains. The files
have checksums.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aelab.core import tensor_file
from aelab.core.environment import number
from aelab.core.errors import DamagedFile
from aelab.training.state import Snapshot, Stopped

INTERVAL = "AELAB_CHECKPOINT"
SECONDS = 5.0  # shortest time between two snapshots, unless the environment variable AELAB_CHECKPOINT sets the time
SHARE = 0.01  # largest share of the training's time for writing; if writing takes long, snapshots become rarer
LAST, PREVIOUS = "last.safetensors", "previous.safetensors"


@dataclass
class Snapshots:
    """A `CheckpointStore` that keeps the snapshots in a folder.

    Attributes:
        folder: the folder of the two files.
        every: seconds between two snapshots. If `every` is None, the environment variable AELAB_CHECKPOINT sets the
            seconds. Without the variable, the interval is `SECONDS`, or longer if writing takes long (`SHARE`).
        stop: function that returns whether the training should stop after the next snapshot.
        writes: whether this process writes the snapshots. Only one process of a training writes them.
    """

    folder: Path
    every: float | None = None
    stop: Callable[[], bool] = lambda: False
    writes: bool = True

    def __post_init__(self) -> None:
        if self.every is None:
            self.every = number(INTERVAL)
        self.next = time.monotonic() + (SECONDS if self.every is None else self.every)

    def latest(self) -> Snapshot | None:
        """Return the last snapshot, or the previous snapshot if the last is damaged; None if neither can be read."""
        for path in (self.folder / LAST, self.folder / PREVIOUS):
            if path.exists():
                try:
                    return Snapshot(*tensor_file.read(path))
                except DamagedFile as damaged:
                    print(f"{damaged}; the training resumes from an earlier point", flush=True)
        return None

    def due(self) -> bool:
        """Whether the training should store a snapshot now, because the interval has passed or the training stops."""
        return (self.writes and time.monotonic() >= self.next) or self.stop()

    def keep(self, snapshot: Snapshot) -> None:
        """Write a snapshot. If the training should stop, raise `Stopped` afterwards."""
        if self.writes:
            self._write(snapshot)
        if self.stop():
            raise Stopped

    def _write(self, snapshot: Snapshot) -> None:
        began = time.monotonic()
        new, last = self.folder / "new.safetensors", self.folder / LAST
        tensor_file.write(new, snapshot.tensors, snapshot.values)
        if last.exists():
            last.replace(self.folder / PREVIOUS)
        new.replace(last)
        ended = time.monotonic()
        self.next = ended + (max(SECONDS, (ended - began) / SHARE) if self.every is None else self.every)

    def clear(self) -> None:
        """Remove all snapshots at the end of the training."""
        for name in ("new.safetensors", LAST, PREVIOUS):
            (self.folder / name).unlink(missing_ok=True)
