"""(a) Speed of the training loop, compared with bare training steps and with large matrix products.

A bare step is a forward pass, a backward pass and a step of `torch.optim.Adam(fused=True)`, in the same precision as
the loop. Bare steps train the same model on a single batch, without data loading, schedule or loss curve.
"""

import statistics

import numpy as np
import torch

from aelab.core import arrays, tensors
from aelab.core.settings import Budget, TrainingOptions
from aelab.data.datasets import Bytes
from aelab.data.pairs import Pairs
from aelab.models import checkpoint
from aelab.models.base import Batch, Learner, Shape
from aelab.training.loop import fit, represent
from benchmarks.measure import Table, Value, flops, peak_flops, ratio, seconds, take_turns
from pipeline.common import params

IMAGE = (1, 28, 28)
STEPS = 60  # training steps of each measurement
TURNS = 7  # repetitions of each measurement
# The points of the loss curve are about as many steps apart as with the default parameters.
HOW = TrainingOptions(points=4, validations=1, mode="eager")


def noise(count: int, image: Shape = IMAGE) -> Bytes:
    """Return `count` images of noise, uint8. The speed of a training does not depend on the content of the images."""
    return np.random.default_rng(0).integers(256, size=(count, *image), dtype=np.uint8)


def bare_steps(model: Learner, batch: torch.Tensor, steps: int) -> float:
    """Return the images per second of bare optimiser steps on one batch of floats."""
    seen = Batch(batch, batch, torch.Generator().manual_seed(0), torch.tensor(0), steps, len(batch))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def work() -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            model.loss(seen)["loss"].backward()
            optimiser.step()

    model.train()
    return steps * len(batch) / seconds(work)


def loop_steps(model: Learner, samples: arrays.Array, steps: int, batch_size: int) -> float:
    """Return the samples per second of the training loop, without validation."""
    budget = Budget(steps=steps, batch_size=batch_size, learning_rate=1e-4)
    two = samples[:2]
    result = fit(model, Pairs(samples, samples), Pairs(two, two), budget, seed=0, options=HOW)
    return result.images / result.seconds


def run() -> Table:
    """Compare the loop with bare steps for every default training, with the number of threads in params.yaml."""
    checked = params.load()
    torch.set_num_threads(checked.training.threads)
    peak = peak_flops()
    rows: list[list[Value]] = []
    for name in checked.variants:
        entry = checked.entry(name)
        model = checkpoint.build(entry.model, IMAGE, entry.arguments())
        for phase in model.phases():
            size = checked.training.override(entry.training, phase.training).batch_size
            images = noise(STEPS * size)
            stored = represent(phase, Pairs(images, images)).targets
            batch, learner = tensors.as_float(stored[:size]), phase.module
            loop, bare = take_turns(
                [
                    lambda m=learner, s=stored, n=size: loop_steps(m, s, STEPS, n),  # type: ignore[misc]
                    lambda m=learner, b=batch: bare_steps(m, b, STEPS),  # type: ignore[misc]
                ],
                TURNS,
            )
            work = flops(lambda m=learner, b=batch: bare_steps(m, b, 1)) / size  # type: ignore[misc]
            share, spread = ratio(loop, bare)
            speed = statistics.median(loop)
            rows.append([f"{name}, {phase.name}", speed, statistics.median(bare), share, spread,
                         work / 1e6, speed * work / 1e9, 100 * max(loop) * work / peak])  # fmt: skip
    note = (
        f"Images per second on {checked.training.threads} thread(s), with batches of {checked.training.batch_size} in "
        f"float32: medians of {TURNS} repetitions of {STEPS} steps. The loop is the pipeline's training loop. A bare "
        "step is only the loss, its gradient and Adam, on one batch. Large matrix products reach at best "
        f"{peak / 1e9:.0f} GFLOP/s. The last column is the best repetition's GFLOP/s as a percentage of this speed."
    )
    columns = {"entry, phase": 0, "loop": 0, "bare step": 0, "loop ÷ bare step": 3, "least to greatest": 0,
               "MFLOP per image": 1, "GFLOP/s": 0, "% of the matrix products": 0}  # fmt: skip
    return Table("(a) Training loop, bare step and matrix products", note, columns, rows)
