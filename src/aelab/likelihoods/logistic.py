"""Discretised logistic: a logistic distribution over the 256 values of a pixel (Salimans et al. 2017, section 2.1).

Here one component with one learned scale, instead of the paper's mixture. The mass of each value's bin is exact, so
bits per dimension compare with published ones.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aelab.models.likelihood import Likelihood


class Logistic(Likelihood):
    """The sigmoid of the decoder's output is the location μ; the scale s is one parameter for all pixels."""

    pixels = "8-bit"

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-3.0))

    @property
    def scale(self) -> Tensor:
        """s, shape ()."""
        return self.log_scale.clamp(min=-7.0).exp()

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Σ log(σ((x + ½/255 − μ)/s) − σ((x − ½/255 − μ)/s)), shape (B,)."""
        scale = self.scale
        upper = (x - output.float().sigmoid() + 0.5 / 255) / scale
        width = 1 / 255 / scale
        lower = upper - width
        below = F.logsigmoid(upper)  # the darkest value takes the whole lower tail,
        above = F.logsigmoid(-lower)  # the brightest one the whole upper tail,
        inside = below + above + torch.log(-torch.expm1(-width))  # log(σ(upper) − σ(lower)) without cancellation
        log_mass = torch.where(x <= 0, below, torch.where(x >= 1, above, inside))
        return log_mass.flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """E[x|z] before the rounding to 256 values, same shape as `output`.

        The tails lie on black and white, so the location μ is not the mean: that is the integral of P(x > t) over t
        from 0 to 1, which is s·(softplus(μ/s) − softplus((μ − 1)/s)).
        """
        location, scale = output.float().sigmoid(), self.scale
        return scale * (F.softplus(location / scale) - F.softplus((location - 1) / scale))

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """One of the 256 values for each pixel, same shape as `output`."""
        location = output.float().sigmoid()
        uniform = torch.rand(location.shape, generator=generator, device=location.device)
        x = location + self.scale * uniform.clamp(1e-7, 1 - 1e-7).logit()
        return (x * 255).round().clamp(0, 255) / 255

    def output_for(self, mean: Tensor) -> Tensor:
        """The log-odds of the location, same shape as `mean`."""
        return mean.logit()
