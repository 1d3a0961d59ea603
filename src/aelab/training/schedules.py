"""Learning-rate schedules. Each returns a tensor with the rate of every step, for use in a CUDA graph."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 0.15  # share of the steps
START, END = 1 / 25, 1 / 250_000  # of the peak
STAIRS = 8


def one_cycle(steps: int, peak: float) -> Tensor:
    """Compute a rate that rises from peak/25 to `peak`, then falls to almost 0, along cosines, (steps,).

    The schedule follows `torch.optim.lr_scheduler.OneCycleLR` with two differences. The rise takes 15 % of the steps
    instead of 30 %, and Adam's momentum is constant.

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
    """Compute a rate in eight stages i = 0 … 7, (steps,): 3^i shares of the steps at the rate peak·10^(−i/7).

    Source: Burda et al. 2016, section 5. The 3,280 epochs there are 3^0 + … + 3^7.
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
