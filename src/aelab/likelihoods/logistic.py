"""Discretised logistic likelihood of the 256 values of a pixel (Salimans et al. 2017, section 2.1).

The paper uses a mixture of logistic distributions. Here each pixel has one logistic distribution, and all pixels share
one learned scale. The probability of each of the 256 values is exact, so bits per dimension can be compared with
published figures.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aelab.models.likelihood import Likelihood


class Logistic(Likelihood):
    """Logistic distribution. The location μ is the sigmoid of the decoder's output. All pixels share the scale s."""

    pixels = "8-bit"

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-3.0))

    @property
    def scale(self) -> Tensor:
        """Scale s of the logistic distribution, ()."""
        return self.log_scale.clamp(min=-7.0).exp()

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Compute Σ log(σ((x + ½/255 − μ)/s) − σ((x − ½/255 − μ)/s)) in nats, (B,), where σ is the sigmoid.

        For x = 0, the second term is replaced by 0; for x = 1, the first term is replaced by 1.
        """
        scale = self.scale
        upper = (x - output.float().sigmoid() + 0.5 / 255) / scale
        width = 1 / 255 / scale
        lower = upper - width
        below = F.logsigmoid(upper)  # log-probability of x = 0, including the lower tail of the distribution
        above = F.logsigmoid(-lower)  # log-probability of x = 1, including the upper tail of the distribution
        inside = below + above + torch.log(-torch.expm1(-width))  # log(σ(upper) − σ(lower)) without cancellation
        log_mass = torch.where(x <= 0, below, torch.where(x >= 1, above, inside))
        return log_mass.flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z], without the rounding to 256 values, with the shape of `output`.

        The mean differs from the location μ, because values below 0 become 0 and values above 1 become 1. The mean is
        the integral of P(x > t) over t from 0 to 1, which equals s·(softplus(μ/s) − softplus((μ − 1)/s)).
        """
        location, scale = output.float().sigmoid(), self.scale
        return scale * (F.softplus(location / scale) - F.softplus((location - 1) / scale))

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one of the 256 values for each channel of a pixel, with the shape of `output`."""
        location = output.float().sigmoid()
        uniform = torch.rand(location.shape, generator=generator, device=location.device)
        x = location + self.scale * uniform.clamp(1e-7, 1 - 1e-7).logit()
        return (x * 255).round().clamp(0, 255) / 255

    def output_for(self, mean: Tensor) -> Tensor:
        """Return the output whose sigmoid is `mean`, with the shape of `mean`."""
        return mean.logit()
