"""Golden losses: a faster loop has to be the same loop.

Those of AE, DAE and VAE were recorded by a plain loop around `torch.optim.Adam` and `OneCycleLR`; they hold to rounding
on any CPU. After a change that is meant to change the mathematics, write them anew:

python -m tests.test_golden
"""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from autoencoders import tensors
from autoencoders.budget import Budget, How
from autoencoders.checkpoint import build
from autoencoders.pairs import Pairs
from autoencoders.training.loop import Session, fit, represent
from tests.conftest import IMAGE, PARAMETERS, squares

FILE = Path(__file__).with_name("golden.json")
GOLDEN: dict[str, list[float]] = json.loads(FILE.read_text()) if FILE.exists() else {}
ROUNDING = 1e-4  # relative; other processors add up in another order


def losses(name: str, seed: int = 0, learning_rate: float = 0.01, room: int | None = None) -> list[float]:
    """Mean training loss of every epoch and validation loss at its end, of every phase."""
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
        how = How(points=14, validations=14, mode="eager")
        result = fit(phase.module, represent(phase, images), represent(phase, validation), budget,
                     seed=seed, how=how, session=Session(room=room))  # fmt: skip
        train, held_out = (
            {point["step"]: point[key] for point in result.curve if key in point}
            for key in ("train_loss", "validation_loss")
        )
        for first, last in ((1, 4), (5, 8), (9, 12), (13, 14)):
            values += [statistics.fmean(train[step] for step in range(first, last + 1)), held_out[last]]
    return values


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_are_the_golden_ones(name: str) -> None:
    assert losses(name) == pytest.approx(GOLDEN[name], rel=ROUNDING)


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 0.0101}])
@pytest.mark.parametrize("name", GOLDEN)
def test_another_loop_would_be_noticed(name: str, change: dict[str, float]) -> None:
    assert losses(name, **change) != pytest.approx(GOLDEN[name], rel=ROUNDING)  # type: ignore[arg-type]


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: losses(name) for name in PARAMETERS}, indent=1) + "\n")
