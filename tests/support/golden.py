"""Losses of a short training of every variant. A refactoring must not change them."""

import statistics

import numpy as np
import torch

from aelab.core import tensors
from aelab.core.settings import Budget, TrainingOptions
from aelab.data.pairs import Pairs
from aelab.models.checkpoint import build
from aelab.training.loop import Session, fit, represent
from tests.support.toys import IMAGE, PARAMETERS, squares


def losses(name: str, seed: int = 0, learning_rate: float = 0.01, room: int | None = None) -> list[float]:
    """Mean training loss of each epoch and validation loss at the end of the epoch, for all phases."""
    stored = squares()
    images = Pairs(np.concatenate([stored.clip(max=most) for most in (255, 100)]), stored)  # two versions of each
    validation = Pairs(stored[::2], stored[::2])
    torch.manual_seed(seed)
    model = build(name, IMAGE, PARAMETERS[name])
    model.start_from(tensors.as_float(torch.from_numpy(stored)))
    values = []
    for phase in model.phases():
        model.eval()
        budget = Budget(steps=14, batch_size=16, learning_rate=learning_rate)
        options = TrainingOptions(points=14, validations=14, mode="eager")
        result = fit(phase.module, represent(phase, images), represent(phase, validation), budget,
                     seed=seed, options=options, session=Session(room=room))  # fmt: skip
        train, held_out = (
            {point["step"]: point[key] for point in result.curve if key in point}
            for key in ("train_loss", "validation_loss")
        )
        for first, last in ((1, 4), (5, 8), (9, 12), (13, 14)):
            values += [statistics.fmean(train[step] for step in range(first, last + 1)), held_out[last]]
    return values
