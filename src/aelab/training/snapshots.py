"""Where a training's snapshots lie: two sealed files in a folder, so that one is whole whatever happens.

A new snapshot is written beside the others before the last one becomes the previous one, and it the last one.
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
SECONDS = 5.0  # between two checkpoints, unless INTERVAL says otherwise
SHARE = 0.01  # of the time that writing them takes then at most: slow disks and large models get fewer
LAST, PREVIOUS = "last.safetensors", "previous.safetensors"


@dataclass
class Snapshots:
    """A `CheckpointStore` of the snapshots in `folder`."""

    folder: Path
    every: float | None = None  # seconds
    stop: Callable[[], bool] = lambda: False  # whether the training is to end after the next snapshot
    writes: bool = True  # where several processes share a training, one writes for all

    def __post_init__(self) -> None:
        if self.every is None:
            self.every = number(INTERVAL)
        self.next = time.monotonic() + (SECONDS if self.every is None else self.every)

    def latest(self) -> Snapshot | None:
        """The last snapshot, or the previous one if that is damaged; None if there is none that is whole."""
        for path in (self.folder / LAST, self.folder / PREVIOUS):
            if path.exists():
                try:
                    return Snapshot(*tensor_file.read(path))
                except DamagedFile as damaged:
                    print(f"{damaged}; the training goes on from an earlier point", flush=True)
        return None

    def due(self) -> bool:
        """Whether the time is over, or the training is to stop."""
        return (self.writes and time.monotonic() >= self.next) or self.stop()

    def keep(self, snapshot: Snapshot) -> None:
        """Write the snapshot; raises `Stopped` if it is to be the last."""
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
        """Remove them: the training is over."""
        for name in ("new.safetensors", LAST, PREVIOUS):
            (self.folder / name).unlink(missing_ok=True)
