"""(n) Duration of small trainings on one device: several at once in processes of their own, or one after another.

A second table shows the speed of a model with short training steps, the MLP of the IWAE paper (Burda et al. 2016).
The benchmark uses the GPU if there is one. On a CPU, measurements that need a GPU are n/a.
"""

import statistics
import time
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

from aelab.core import devices
from aelab.core.settings import Budget, Mode, TrainingOptions
from aelab.data.pairs import Pairs
from aelab.models import checkpoint
from aelab.training.loop import fit
from benchmarks.loop import IMAGE, noise
from benchmarks.measure import Table, Value, cores, quiet, ratio, take_turns
from pipeline.common import params
from pipeline.tools.recipe import committed, load

TRAININGS = 12  # trainings in each measurement, divided among the processes
AT_ONCE = {"cuda": (1, 3, 12), "cpu": (1, 2)}  # numbers of simultaneous trainings to compare
ENTRIES = "ae", "vqvae"  # entries (model configurations) in params.yaml
TURNS = 3  # repetitions of each measurement
STEPS = {"cuda": 1500, "cpu": 20}  # steps of each training
PAPER = "iwae-1-vae", "iwae-1-iwae50"  # files in recipes/ with the MLP of the paper
PAPER_STEPS = {"cuda": 5000, "cpu": 500}  # steps of each training of this MLP
PATIENCE = 300.0  # seconds to wait for all processes


def run() -> list[Table]:
    """Return two tables: simultaneous trainings, and the steps of the IWAE paper's MLP."""
    device = devices.prepare("auto", 1)
    paper = _paper(device)
    return [filled(device), paper]


def filled(device: torch.device, turns: int = TURNS) -> Table:
    """Compare the duration of trainings that run several at a time with trainings that run one after another."""
    rows: list[list[Value]] = []
    for name in ENTRIES:
        figures = take_turns([partial(_seconds, at_once, name, device.type) for at_once in AT_ONCE[device.type]], turns)
        alone = figures[0]
        for at_once, seconds in zip(AT_ONCE[device.type], figures, strict=True):
            share, spread = ratio(alone, seconds)
            rows.append([name, float(at_once), statistics.median(seconds), share, spread])
    note = (
        f"{TRAININGS} trainings of {STEPS[device.type]} steps, the first phase of an entry of the default parameters, "
        f"on {devices.describe(device)}, with {cores()} CPU cores. Medians of {turns} repetitions, without the start "
        "of the processes."
    )
    columns = {"entry": 0, "at once": 0, "seconds": 1, "one after another ÷ this row": 2, "least to greatest": 0}
    return Table("(n) Small trainings that share a device", note, columns, rows)


def _seconds(at_once: int, name: str, device: str) -> float:
    """Return the seconds that `at_once` processes take for all trainings together."""
    context = get_context("spawn")
    # If a process is killed, the barriers break at the timeout instead of waiting forever.
    ready, over = (context.Barrier(at_once + 1, timeout=PATIENCE) for _ in range(2))
    share = TRAININGS // at_once
    running = [
        context.Process(target=_train, args=(ready, over, name, device, range(at * share, (at + 1) * share)))
        for at in range(at_once)
    ]
    for process in running:
        process.start()
    try:
        ready.wait()
        began = time.perf_counter()
        over.wait()
        taken = time.perf_counter() - began
        for process in running:
            process.join()
        return taken
    finally:
        for process in running:
            process.kill()


def _train(ready: Any, over: Any, name: str, device: str, seeds: range) -> None:
    """Train with each of `seeds`, one after another. Wait at `ready` before the trainings, and at `over` after them."""
    try:
        devices.prepare(device, 1)
        entry = params.load().entry(name)
        images = Pairs.of(noise(8192))

        def train(seed: int, steps: int) -> None:
            model = checkpoint.build(entry.model, IMAGE, entry.arguments(), seed).to(device)
            with quiet():
                fit(model, images, images.thinned(2), _budget(steps, 64), seed=seed, options=_how("graph"))

        train(0, 8)
        ready.wait()
        for seed in seeds:
            train(seed, STEPS[device])
        over.wait()
    except BaseException:
        ready.abort()  # otherwise the other processes would wait for this process
        over.abort()
        raise


def _paper(device: torch.device) -> Table:
    """Compare two speeds of the IWAE paper's MLP: operation by operation, and with steps recorded as a CUDA graph."""
    rows: list[list[Value]] = []
    for recipe in PAPER:
        _, wanted = load(recipe, committed())
        checked = params.check(wanted)
        (name,) = checked.variants
        batch = checked.training.batch_size
        recorded = _steps_per_second(checked, name, batch, "graph", device) if device.type == "cuda" else None
        rows.append([recipe, float(batch), _steps_per_second(checked, name, batch, "eager", device), recorded])
    note = f"Steps per second in float32, on {devices.describe(device)}: the best of {TURNS} repetitions."
    if device.type != "cuda":
        note += " n/a: only a GPU can record a step."
    columns = {"recipe": 0, "batch": 0, "operation by operation": 0, "recorded": 0}
    return Table("(n) The IWAE paper's MLP", note, columns, rows)


def _steps_per_second(checked: params.Params, name: str, batch: int, mode: Mode, device: torch.device) -> float:
    entry, steps = checked.entry(name), PAPER_STEPS[device.type]
    images = Pairs.of(noise(64 * batch))

    def speed() -> float:
        model = checkpoint.build(entry.model, IMAGE, entry.arguments(), 0).to(device)
        with quiet():
            found = fit(
                model, images, images.thinned(2), _budget(steps, batch), seed=0, options=_how(mode), dynamic=True
            )
        return steps / found.seconds

    return max(speed() for _ in range(TURNS))


def _budget(steps: int, batch: int) -> Budget:
    return Budget(steps=steps, batch_size=batch, learning_rate=1e-4)


def _how(mode: Mode) -> TrainingOptions:
    return TrainingOptions(points=4, validations=1, mode=mode)
