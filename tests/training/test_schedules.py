import pytest
import torch
from torch import nn

from aelab.training.schedules import SCHEDULES, one_cycle, stairs


@pytest.mark.parametrize("steps", [1, 2, 7, 14, 100])
def test_one_cycle_is_torchs(steps: int) -> None:
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.01, total_steps=steps, pct_start=0.15, cycle_momentum=False
    )
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if len(rates) < steps:
            schedule.step()
    assert one_cycle(steps, 0.01).tolist() == pytest.approx(rates, rel=1e-12)


def test_stairs_are_those_of_the_paper() -> None:
    """Of the 3,280 epochs, 3^i have the rate peak·10^(−i/7)."""
    rates = stairs(3280, 0.001).tolist()
    expected = [0.001 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 100])
def test_every_step_has_a_rate_below_the_peak(name: str, steps: int) -> None:
    rates = SCHEDULES[name](steps, 0.01)
    assert rates.shape == (steps,)
    assert ((rates > 0) & (rates <= 0.01)).all()
