"""Learning-rate schedules. Each function returns a tensor with the rate of every step, for use in a CUDA graph."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 0.15  # share of the steps in which the rate of `one_cycle` rises
START, END = 1 / 25, 1 / 250_000  # first and last rate of `one_cycle`, relative to the peak
STAIRS = 8  # number of stages of `stairs`


def one_cycle(steps: int, peak: float) -> Tensor:
    """Compute rates that rise from peak/25 to `peak` and then fall to almost 0, (steps,).

    The rise and the fall each follow half a period of a cosine. The schedule is `torch.optim.lr_scheduler.OneCycleLR`
    with two changes: the rise takes 15 % of the steps instead of 30 %, and Adam's momentum is constant.

    Source: Smith & Topin 2019.
    """
    top = WARM_UP * steps - 1
    step = torch.arange(steps, dtype=torch.float64)

    def cosine(start: float, end: float, share: Tensor) -> Tensor:
        return end + (start - end) / 2 * (1 + (math.pi * share).cos())

    up = cosine(START, 1, step / top)
    down = cosine(1, END, (step - top) / (steps - 1 - top))
    return peak * torch.where(step <= top, up, down)


def stairs(steps: int, peak: float) -> Tensor:
    """Compute rates that fall in eight stages i = 0 … 7, (steps,).

    In stage i, the rate is peak·10^(−i/7), and the number of steps is proportional to 3^i.

    Source: Burda et al. 2016, section 5. In the paper, stage i lasts 3^i epochs, 3,280 epochs in all.
    """
    ends = torch.tensor([float(3**i) for i in range(STAIRS)], dtype=torch.float64).cumsum(0)
    share = torch.arange(steps, dtype=torch.float64) / steps
    stage = torch.bucketize(share, ends / ends[-1], right=True)
    return peak * 10 ** (-stage / (STAIRS - 1))


def constant(steps: int, peak: float) -> Tensor:
    """Return the rate `peak` for all steps, (steps,)."""
    return torch.full((steps,), peak, dtype=torch.float64)


SCHEDULES: dict[str, Callable[[int, float], Tensor]] = {
    "one_cycle": one_cycle,
    "stairs": stairs,
    "constant": constant,
}
