"""(j) Speed of a training that two processes share, compared with the same training by one process.

Each process has one core. Both trainings use the same model, images and batch size, and reach the same losses. The
times exclude the start of the processes.

A third measurement shows the upper limit of the speed: two processes train two models independently, each with half
the batch size.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from aelab.core import devices, process_group
from aelab.core.settings import Budget, TrainingOptions
from aelab.data.pairs import Pairs
from aelab.models import checkpoint
from aelab.training.loop import fit
from benchmarks.loop import IMAGE, noise
from benchmarks.measure import Table, Value, quiet, ratio
from pipeline.common import params

TURNS = 4  # repetitions of each measurement
SECONDS = 2.0  # approximate duration of a measurement
APART = "APART"  # name of an environment variable; if it is set, each process trains a model of its own
SETTINGS = [("ae", 64), *((name, batch) for name in ("ae", "vae", "vqvae") for batch in (256, 1024))]


def run() -> Table:
    """Measure the three speeds for each model and batch size."""
    rows: list[list[Value]] = []
    for name, batch in SETTINGS:
        steps = max(20, int(SECONDS * 4000 / batch))
        turns = [
            (
                _measured(1, name, batch, steps),
                _measured(2, name, batch, steps),
                _measured(2, name, batch // 2, steps, apart=True),
            )
            for _ in range(TURNS)
        ]
        one, two, apart = ([each["speed"] for each in side] for side in zip(*turns, strict=True))
        share, spread = ratio(two, one)
        added_up = statistics.median(each["sum"] for _, each, _ in turns)
        rows.append([f"{name}, {batch}", statistics.median(one), statistics.median(two), share, spread,
                     ratio(apart, one)[0], 100 * added_up])  # fmt: skip
    note = (
        f"Steps per second by batch size, with the networks of the default parameters: medians of {TURNS} repetitions. "
        "The last column is the percentage of their time that two processes spend on the sum of their gradients."
    )
    columns = {"entry, batch size": 0, "1 process": 1, "2 processes": 1, "2 processes ÷ 1": 2, "least to greatest": 0,
               "2 trainings of half the batch ÷ 1 process": 2, "% of time for the sum": 1}  # fmt: skip
    return Table("(j) One training by two processes", note, columns, rows)


def _measured(size: int, name: str, batch: int, steps: int, *, apart: bool = False) -> Any:
    """Train with `size` processes, separately if `apart`, else together; return the first process's measurement."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("localhost", 0))
        place = {
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(free.getsockname()[1]),
        }
        place |= {APART: "1"} if apart else {}
        free.close()
        found = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks.ranks", str(found), name, str(batch), str(steps)]
        started = [
            subprocess.Popen(command, env=os.environ | place | {"RANK": str(rank), "OMP_NUM_THREADS": "1"})  # noqa: S603
            for rank in range(size)
        ]
        if sum(abs(process.wait()) for process in started):
            msg = f"a process of {name} at a batch of {batch} failed"
            raise RuntimeError(msg)
        return json.loads(found.read_text(encoding="utf-8"))


def _part(found: Path, name: str, batch: int, steps: int) -> None:
    """Train in this process. The first process also writes its measurement to the file `found`."""
    device = devices.prepare("cpu", 1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    process_group.begin(device)
    took, add_up = [0.0], process_group._sum  # noqa: SLF001

    def timed(x: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        result = add_up(x)
        took[0] += time.perf_counter() - began
        return result

    process_group._sum = timed  # noqa: SLF001
    model = checkpoint.build(name, IMAGE, params.load().entry(name).arguments(), 0)
    images = noise(4 * batch)
    options = TrainingOptions(points=2, validations=1, mode="eager")

    def train(count: int) -> float:
        took[0] = 0.0
        budget = Budget(steps=count, batch_size=batch, learning_rate=1e-4)
        with quiet():
            return fit(model, Pairs.of(images), Pairs.of(images[:2]), budget, seed=0, options=options).seconds

    train(10)
    distributed.barrier()
    if APART in os.environ:
        process_group.end()
    seconds = train(steps)
    if os.environ["RANK"] == "0":
        found.write_text(json.dumps({"speed": steps / seconds, "sum": took[0] / seconds}), encoding="utf-8")
    process_group.end()


if __name__ == "__main__":
    _part(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
