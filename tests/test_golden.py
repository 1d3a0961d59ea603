"""Golden losses: a faster loop has to be the same loop. Recorded once, by a plain loop around `torch.optim.Adam` and
`OneCycleLR`; they hold to rounding on any CPU. After a change that is meant to change the mathematics, write them anew:

python -m tests.test_golden
"""

import json
from pathlib import Path

import pytest
import torch

from autoencoders import training
from autoencoders.budget import Budget
from autoencoders.checkpoint import build
from autoencoders.training import Pairs, fit, represent
from tests.conftest import IMAGE, PARAMETERS, squares

FILE = Path(__file__).with_name("golden.json")
GOLDEN: dict[str, list[float]] = json.loads(FILE.read_text()) if FILE.exists() else {}
ROUNDING = 1e-4  # relative; other processors add up in another order


def losses(name: str, seed: int = 0, learning_rate: float = 0.01) -> list[float]:
    """Training and validation loss of every epoch of every phase."""
    stored = torch.from_numpy(squares())
    images = Pairs(torch.cat([stored.clamp(max=m) for m in (255, 100)]), stored)  # two versions of every image
    validation = Pairs(stored[::2], stored[::2])
    torch.manual_seed(seed)
    model = build(name, IMAGE, PARAMETERS[name])
    model.start_from(training.as_float(stored))
    values = []
    for phase in model.phases():
        model.eval()
        budget = Budget(steps=14, batch_size=16, learning_rate=learning_rate)
        result = fit(phase.module, represent(phase, images), represent(phase, validation), budget,
                     seed=seed, precision="float32", mode="eager", label="test")  # fmt: skip
        values += [epoch[f"{kind}_loss"] for epoch in result.history for kind in ("train", "validation")]
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
