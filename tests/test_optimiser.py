import pytest
import torch
from torch import nn

from autoencoders.optimiser import SCHEDULES, Adam, one_cycle, stairs


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


def test_adam_is_torchs_to_the_bit() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Linear(2, 2))  # the last one is not used
    theirs = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Linear(2, 2))
    theirs.load_state_dict(ours.state_dict())
    rate = 0.0078125  # the same number in float32 and float64
    reference, adam = torch.optim.Adam(theirs.parameters(), lr=rate, fused=True), Adam(ours.parameters())
    for _ in range(10):
        x = torch.randn(6, 5)
        for model, optimiser in ((ours, adam), (theirs, reference)):
            optimiser.zero_grad()
            model[:3](x).square().sum().backward()
        adam.step(torch.tensor(rate))
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_stairs_are_those_of_the_paper() -> None:
    """3,280 epochs: 3^i of them at 10^(−i/7) of the peak."""
    rates = stairs(3280, 0.001).tolist()
    expected = [0.001 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 100])
def test_every_step_has_a_rate_below_the_peak(name: str, steps: int) -> None:
    rates = SCHEDULES[name](steps, 0.01)
    assert rates.shape == (steps,)
    assert ((rates > 0) & (rates <= 0.01)).all()
