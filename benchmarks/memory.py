"""(f) Peak memory with a data set ten times larger than a memory limit, and the speed of reading from disk.

Each measurement from disk has its own process. For example, `python -m benchmarks.memory FOLDER streamed` calls the
function `streamed` for the images in FOLDER, and prints the result as JSON. A process fails if its imports and its data
together need more memory than the limit.

The limit excludes pages of memory-mapped files, because the kernel can drop them at any time. The reported peak, which
is the kernel's VmHWM, includes these pages.
"""

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from aelab.core import arrays, devices
from aelab.core.settings import Budget, TrainingOptions
from aelab.data import corruption
from aelab.data.datasets import Bytes
from aelab.data.pairs import Pairs
from aelab.evaluation import reconstruction
from aelab.models import checkpoint
from aelab.models.base import Autoencoder
from aelab.training.loop import Session, fit, represent
from benchmarks.measure import Table, Value, ratio

LIMIT = 896 * 2**20  # bytes, of which the import of torch needs more than 500 MiB
TIMES = 10  # size of the data set, relative to the limit
PART = 1.1  # size of the images to corrupt, evaluate and encode, relative to the limit; all images would take minutes
IMAGE = (3, 64, 64)
STEPS = 200  # steps of each timed training
TURNS = 3  # repetitions of the timed trainings
HELD_OUT = 200  # validation images
FEW = 1000  # images on which all metrics are measured
NETWORK = {"name": "patches", "width": 16, "downsampling": 8}  # small, so that the speed depends on reading
PARAMETERS: dict[str, dict[str, Any]] = {
    "vae": {"network": NETWORK, "code": 16, "beta": 1.0, "likelihood": "bernoulli"},
    "vqvae": {
        "network": NETWORK | {"width": 8, "downsampling": 2},  # a fine grid, so that the codes also exceed the limit
        "quantizer": {"name": "codebook", "codes": 16, "dimensions": 4},
        "beta": 0.25,
        "likelihood": "bernoulli",
        "prior": {"width": 8, "layers": 1, "heads": 1, "training": {}},
    },
}

KEPT: dict[Path, Bytes] = {}  # images that the process of `in_memory` keeps for its next call

Result = dict[str, Any]


def noise(count: int) -> Iterator[Bytes]:
    """Yield `count` images in pieces: the same random bytes, with different bits inverted in each piece."""
    base: Bytes | None = None
    for number, piece in enumerate(arrays.pieces(count, int(np.prod(IMAGE)))):
        if base is None:
            base = np.random.default_rng(0).integers(256, size=(piece.stop, *IMAGE), dtype=np.uint8)
        yield base[: piece.stop - piece.start] ^ np.uint8(number % 256)


def model(variant: str) -> Autoencoder:
    """Return a new model of `variant`. Its initial weights are the same in every call."""
    torch.manual_seed(0)
    return checkpoint.build(variant, IMAGE, PARAMETERS[variant])


def train(pairs: Pairs, room: int) -> Result:
    """Train the VAE for a few steps; return the number of images, the seconds and a hash of the final weights.

    Args:
        pairs: input and target images.
        room: maximum number of bytes of images that the training keeps in memory. With 0, the training reads
            all images from disk.
    """
    held_out = Pairs(*(np.array(each[:HELD_OUT]) for each in pairs))
    budget = Budget(steps=STEPS, batch_size=64, learning_rate=0.001)
    learner = model("vae")
    result = fit(
        learner,
        pairs,
        held_out,
        budget,
        seed=0,
        options=TrainingOptions(points=10, validations=1),
        session=Session(room=room),
    )
    weights = hashlib.sha256()
    for tensor in learner.state_dict().values():
        weights.update(tensor.numpy().tobytes())
    return {"images": result.images, "seconds": result.seconds, "weights": weights.hexdigest()}


def streamed(folder: Path) -> Result:
    """Train on images from disk, under the memory limit."""
    images = arrays.read(folder / "images.npy")
    limit()
    return train(Pairs(images, images), 0)


def cold(folder: Path) -> Result:
    """Train like `streamed`, but first drop the images from the kernel's page cache."""
    forget(folder / "images.npy")
    return streamed(folder)


def in_memory(folder: Path) -> Result:
    """Train on images in memory, without a limit. The process keeps the images for its next call."""
    devices.prepare("cpu", 1)
    if folder not in KEPT:
        KEPT[folder] = np.load(folder / "images.npy")
    images = KEPT[folder]
    return train(Pairs(images, images), images.nbytes) | {"peak": status("VmHWM")}


def denoising(folder: Path) -> Result:
    """Train on corrupted inputs and clean targets from disk, under the memory limit."""
    pairs = Pairs(arrays.read(folder / "corrupted.npy"), part(folder))
    limit()
    return train(pairs, 0)


def corrupt(folder: Path) -> Result:
    """Write a corrupted copy of a part of the images to disk, under the memory limit."""
    images = part(folder)
    limit()
    copy = corruption.mixture(images, [("masking", 0.5)], seed=0, name="train")
    return timed(len(images), lambda: arrays.write(folder / "corrupted.npy", images.shape, copy))


def evaluate(folder: Path) -> Result:
    """Compute all metrics for a few images, then time the MSE alone for many images, since SSIM is ten times slower."""
    images, vae = part(folder), model("vae").eval()
    limit()
    reconstruction.evaluate(vae, images[:FEW])
    return timed(len(images), lambda: reconstruction.reconstruction_error(vae, images))


def represented(folder: Path) -> Result:
    """Encode images with a VQ-VAE, and train its prior on the codes for a few steps."""
    images = part(folder)
    limit()
    _, phase = model("vqvae").eval().phases()

    def work() -> None:
        codes = represent(phase, Pairs(images, images))
        held_out = codes.thinned(16)
        budget = Budget(steps=5, batch_size=8, learning_rate=0.001)
        fit(
            phase.module,
            codes,
            held_out,
            budget,
            seed=0,
            options=TrainingOptions(points=1, validations=1),
            session=Session(room=0),
        )

    return timed(len(images), work)


def part(folder: Path) -> Bytes:
    """Return a part of the images that is larger than the limit."""
    images = arrays.read(folder / "images.npy")
    return images[: int(PART * LIMIT / images[:1].nbytes)]


def timed(count: int, work: Callable[[], object]) -> Result:
    """Call `work`, which processes `count` images; return `count` and the seconds."""
    started = time.perf_counter()
    work()
    return {"images": count, "seconds": time.perf_counter() - started}


def limit() -> None:
    """Limit the memory of this process to `LIMIT`, including the memory that it already uses."""
    allowed = status("VmData") + LIMIT - status("VmRSS")
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def status(name: str) -> int:
    """Return a value of /proc/self/status in bytes, such as VmHWM, the peak of the resident memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 2**10


def forget(path: Path) -> None:
    """Drop a file from the kernel's page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


WORK = {each.__name__: each for each in (streamed, cold, denoising, corrupt, evaluate, represented)}


def run() -> Table:
    """Run all measurements. Trainings from memory and from disk alternate, so that a slow moment affects both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = TIMES * LIMIT // int(np.prod(IMAGE))
        arrays.write(folder / "images.npy", (count, *IMAGE), noise(count))
        with ProcessPoolExecutor(1, get_context("spawn")) as memory:
            turns = [
                [memory.submit(in_memory, folder).result(), _process(folder, "streamed"), _process(folder, "cold")]
                for _ in range(TURNS)
            ]
        others = [_process(folder, each) for each in ("corrupt", "denoising", "evaluate", "represented")]
    loaded, cached, uncached = (list(each) for each in zip(*turns, strict=True))
    rows = [
        _row("training, in memory, no limit", loaded),
        _row("training, from disk", cached, loaded),
        _row("training, from disk, nothing cached", uncached, loaded),
        _row("corruption of a part, written to disk", others[:1]),
        _row("training, from disk, on that part", others[1:2]),
        _row("evaluation of a part", others[2:3]),
        _row("codes of a part, and steps of their prior", others[3:]),
    ]
    note = (
        f"{count:,} images of {'×'.join(map(str, IMAGE))} bytes, {TIMES} times the limit of {LIMIT / 2**20:,.0f} MiB; "
        f"a part is {PART:.2f} times the limit; one thread. Peaks are the largest resident sets of all repetitions, "
        f"with pages of mapped files. Images per second are medians of {TURNS} repetitions of {STEPS} steps of 64 "
        "images, without validation. Same weights: every training ended with the same bits as the trainings in memory."
    )
    columns = {"": 0, "peak, MiB": 0, "peak ÷ limit": 2, "images a second": 0, "MB a second": 0, "÷ in memory": 3,
               "least to greatest": 0, "same weights": 0}  # fmt: skip
    return Table("(f) Peak memory with a data set ten times larger than a limit", note, columns, rows)


def _row(what: str, turns: list[Result], beside: list[Result] | None = None) -> list[Value]:
    speeds = [turn["images"] / turn["seconds"] for turn in turns]
    speed, peak = statistics.median(speeds), max(turn["peak"] for turn in turns)
    row: list[Value] = [what, peak / 2**20, peak / LIMIT, speed, speed * np.prod(IMAGE) / 1e6]
    if beside is None:
        return [*row, None, None, None]
    same = {turn["weights"] for turn in turns + beside} == {beside[0]["weights"]}
    return [*row, *ratio(speeds, [turn["images"] / turn["seconds"] for turn in beside]), "yes" if same else "no"]


def _process(folder: Path, what: str) -> Result:
    """Run one measurement in a new process, and return its result."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", str(folder), what]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"{what} failed, perhaps because memory ran out")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def main(folder: Path, what: str) -> None:
    """Run one measurement in this process, and print its result as JSON."""
    devices.prepare("cpu", 1)
    result = WORK[what](folder)
    print(json.dumps(result | {"peak": status("VmHWM")}))


if __name__ == "__main__":
    typer.run(main)
