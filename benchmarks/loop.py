"""(a) The training loop beside a bare step and beside the machine's matrix products.

A bare step is the same model and precision under `torch.optim.Adam(fused=True)`, on one batch that is already there as
floats, without any order of the data, schedule or bookkeeping.
"""

import statistics

import torch

from autoencoders import checkpoint, training
from autoencoders.base import Learner
from autoencoders.budget import Budget
from benchmarks.measure import Table, Value, flops, peak_flops, quiet, ratio, seconds, take_turns
from pipeline import params

IMAGE = (1, 28, 28)
STEPS = 60  # of each turn
TURNS = 7


def bare_steps(model: Learner, batch: torch.Tensor, steps: int) -> float:
    """Images per second of bare optimiser steps on one batch of floats."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def work() -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            model.loss(batch, batch, generator)["loss"].backward()
            optimiser.step()

    model.train()
    return steps * len(batch) / seconds(work)


def loop_steps(model: Learner, images: torch.Tensor, steps: int, batch_size: int) -> float:
    """Images per second of the training loop, validation not counted."""
    budget = Budget(steps=steps, batch_size=batch_size, learning_rate=1e-4)
    pairs, one = training.Pairs(images, images), training.Pairs(images[:2], images[:2])
    with quiet():
        result = training.fit(model, pairs, one, budget, seed=0, precision="float32", mode="eager", label="")
    return result.images / result.seconds


def run() -> Table:
    """Both for every training of the default parameters, on as many threads as they say."""
    checked = params.load()
    torch.set_num_threads(checked.training.threads)
    peak = peak_flops()
    rows: list[list[Value]] = []
    for name in checked.variants:
        section = checked.variant(name)
        model = checkpoint.build(name, IMAGE, section.arguments())
        for phase in model.phases():
            size = checked.budget(section.training, phase.training).batch_size
            stored = torch.randint(256, (STEPS * size, *IMAGE), dtype=torch.uint8)
            stored = training.represent(phase, training.Pairs(stored, stored)).targets
            batch, learner = training.as_float(stored[:size]), phase.module
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
        f"Images per second on {checked.training.threads} thread(s), batch {checked.training.batch_size}, float32; "
        f"medians of {TURNS} turns of {STEPS} steps. Large matrix products: {peak / 1e9:.0f} GFLOP/s, the best of "
        "several, beside which the best turn stands."
    )
    columns = {"training": 0, "loop": 0, "bare step": 0, "loop ÷ bare": 3, "least to greatest": 0,
               "MFLOP an image": 1, "GFLOP/s": 0, "% of the matrix products": 0}  # fmt: skip
    return Table("(a) The loop beside a bare step and the matrix products", note, columns, rows)
