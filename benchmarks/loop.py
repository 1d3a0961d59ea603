"""Images per second of the training loop beside a bare step: the same model, optimiser and precision, but one batch
that is already there, no data order, no schedule, no bookkeeping. The two take turns in one process.

    python -m benchmarks.loop
"""

import contextlib
import io
import statistics
import time

import torch

from autoencoders import checkpoint, devices, training
from autoencoders.base import Learner
from pipeline import params

IMAGE = (1, 28, 28)
STEPS = 100  # of each turn
TURNS = 7  # the first one warms up


def bare_steps(model: Learner, batch: torch.Tensor, optimiser: torch.optim.Optimizer) -> float:
    """Images per second of bare optimiser steps on one batch of floats."""
    generator = torch.Generator(batch.device).manual_seed(0)
    started = time.perf_counter()
    for _ in range(STEPS):
        loss = model.loss(batch, batch, generator)["loss"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    loss.item()  # waits for a GPU
    return STEPS * len(batch) / (time.perf_counter() - started)


def loop_steps(model: Learner, images: training.Pairs, budget: training.Budget) -> float:
    """Images per second of the training loop, validation not counted."""
    one = training.Pairs(images.inputs[:1], images.targets[:1])
    with contextlib.redirect_stdout(io.StringIO()):
        result = training.fit(model, images, one, budget, seed=0, precision="float32", label="")
    return result.images / result.seconds


def main() -> None:
    """Print a table: the medians of both over the turns, and the median of their ratios."""
    checked = params.load()
    device = devices.prepare(checked.training.device)
    print(f"{devices.describe(device)}, torch {torch.__version__}, float32")
    print("| variant | loop (images/s) | bare step (images/s) | loop / bare |")
    print("|---|--:|--:|--:|")
    for name in checked.variants:
        section = checked.variant(name)
        batch_size = checked.budget(section.training).batch_size
        stored = torch.randint(256, (STEPS * batch_size, *IMAGE), dtype=torch.uint8, device=device)
        images = training.Pairs(stored, stored)
        budget = training.Budget(steps=STEPS, batch_size=batch_size, learning_rate=1e-4)
        model = checkpoint.build(name, IMAGE, section.arguments()).to(device)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
        batch = training.as_float(stored[:batch_size])
        turns = [(loop_steps(model, images, budget), bare_steps(model, batch, optimiser)) for _ in range(TURNS)]
        loop, bare = zip(*turns[1:], strict=True)
        ratio = statistics.median(a / b for a, b in turns[1:])
        print(f"| {name} | {statistics.median(loop):,.0f} | {statistics.median(bare):,.0f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
