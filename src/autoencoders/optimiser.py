"""Adam and its learning rate, with everything on the device.

`torch.optim.Adam(fused=True)` calls the same kernel, but imports torch's compiler first (4 s in every process) and
takes the learning rate from the host, which a CUDA graph would freeze.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

WARM_UP = 0.15  # share of the steps
START, END = 1 / 25, 1 / 250_000  # of the peak


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


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1)."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
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
            lr=rate, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0, amsgrad=False, maximize=False,
        )  # fmt: skip

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None
