"""Adam and the schedules of its learning rate, with everything on the device.

`torch.optim.Adam(fused=True)` calls the same kernel, but imports torch's compiler first (4 s in every process) and
takes the learning rate from the host, which a CUDA graph would freeze.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

WARM_UP = 0.15  # share of the steps
START, END = 1 / 25, 1 / 250_000  # of the peak
STAIRS = 8


def one_cycle(steps: int, peak: float) -> Tensor:
    """The learning rate of every step, (steps,): up from peak/25, then down to almost 0, along cosines.

    Smith & Topin 2019, as `torch.optim.lr_scheduler.OneCycleLR` has it, but the way up takes 15 % of the steps instead
    of 30 %, and Adam's momentum stays as it is.
    """
    top = WARM_UP * steps - 1
    step = torch.arange(steps, dtype=torch.float64)

    def cosine(start: float, end: float, share: Tensor) -> Tensor:
        return end + (start - end) / 2 * (1 + (math.pi * share).cos())

    up = cosine(START, 1, step / top)
    down = cosine(1, END, (step - top) / (steps - 1 - top))
    return peak * torch.where(step <= top, up, down)


def stairs(steps: int, peak: float) -> Tensor:
    """Stage i = 0 … 7 takes 3^i shares of the steps at the rate peak·10^(−i/7): (steps,).

    Burda et al. 2016, section 5, whose 3,280 epochs are 3^0 + … + 3^7.
    """
    ends = torch.tensor([float(3**i) for i in range(STAIRS)], dtype=torch.float64).cumsum(0)
    share = torch.arange(steps, dtype=torch.float64) / steps
    stage = torch.bucketize(share, ends / ends[-1], right=True)
    return peak * 10 ** (-stage / (STAIRS - 1))


def constant(steps: int, peak: float) -> Tensor:
    """The same rate for all steps: (steps,)."""
    return torch.full((steps,), peak, dtype=torch.float64)


SCHEDULES: dict[str, Callable[[int, float], Tensor]] = {
    "one_cycle": one_cycle,
    "stairs": stairs,
    "constant": constant,
}


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1)."""

    def __init__(self, parameters: Iterable[nn.Parameter], epsilon: float = 1e-8) -> None:
        self.epsilon = epsilon
        self.parameters = list(parameters)
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.counts = [torch.zeros((), device=parameter.device) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """Update the parameters that have a gradient; `rate` is a number on their device."""
        mine = zip(self.parameters, self.means, self.squares, self.counts, strict=True)
        parameters, means, squares, counts = zip(*(each for each in mine if each[0].grad is not None), strict=True)
        torch._foreach_add_(counts, 1)
        torch._fused_adam_(
            parameters, [parameter.grad for parameter in parameters], means, squares, [], counts,
            lr=rate, beta1=0.9, beta2=0.999, eps=self.epsilon, weight_decay=0, amsgrad=False, maximize=False,
        )  # fmt: skip

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None
