"""Golden losses: a faster training loop must compute the same losses.

A plain loop around `torch.optim.Adam` and `OneCycleLR` recorded the losses of AE, DAE and VAE. Other CPUs give the same
losses up to rounding. After an intended change of the mathematics, record the losses again:

python -m tests.training.test_golden
"""

import json
from pathlib import Path

import pytest

from tests.support.golden import losses
from tests.support.toys import PARAMETERS

FILE = Path(__file__).with_name("golden.json")
GOLDEN: dict[str, list[float]] = json.loads(FILE.read_text()) if FILE.exists() else {}
ROUNDING = 1e-4  # relative; other processors add in a different order


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_are_the_golden_ones(name: str) -> None:
    assert losses(name) == pytest.approx(GOLDEN[name], rel=ROUNDING)


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 0.0101}])
@pytest.mark.parametrize("name", GOLDEN)
def test_another_loop_would_be_noticed(name: str, change: dict[str, float]) -> None:
    assert losses(name, **change) != pytest.approx(GOLDEN[name], rel=ROUNDING)  # type: ignore[arg-type]


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: losses(name) for name in PARAMETERS}, indent=1) + "\n")
