"""Finite scalar quantisation: rounds every number separately to a few steps (Mentzer et al. 2023).

    z_e = f(z)        into the range of L steps: tanh(z + shift)·(L − 1)/2, minus ½ for an even L
    k   = round(z_e)  one of L whole numbers, including 0

The codes are all combinations of steps. The codes are fixed, so there is no codebook loss and no restart. Every output
is near a code, so there is no commitment loss. As in the paper, z_e and the codes are in units of ⌊L/2⌋ steps, that is,
in [−1, 1]. Two details differ from the paper:

    z ← S·(z − E[z])/√Var[z]   before f, with the moments of each number over the batch (Ioffe & Szegedy 2015). Without
                               this normalisation, an encoder whose outputs fall on a few steps keeps to these steps.
    L = 2                      no shift: with a shift, f(0) = 0 is an end of the range, where f is flat (f′ = 0.001)

The gradient passes through the moments, because a quarter of the codes stayed unused if the moments were constants. The
normalisation cancels the bias of the encoder's last layer, so the gradient of this bias is only rounding error. Adam
scales this error up to full updates. The bias therefore drifts, and the moving averages follow the drift.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from aelab.core import process_group
from aelab.models.quantizer import Quantized, Quantizer, straight_through

DECAY = 0.9  # The moving averages of the moments decay by this factor in a training step.
SPREAD = 1.5  # S. With 1, codes at the corners of the grid may stay unused if the numbers are correlated.
TINY = 1e-5  # This constant is added to the variance, as in batch normalisation.
MARGIN = 1e-3  # The range exceeds the outermost steps by this share. Without the margin, no z would reach these steps.


class FiniteScalar(Quantizer):
    """K = Π L_i fixed codes of D numbers. Number i has L_i evenly spaced steps; `levels` lists L_1 … L_D."""

    levels: Tensor  # L, (D, 1, 1) like the other buffers
    unit: Tensor  # ⌊L/2⌋
    value: Tensor  # place value of a step in an index
    mean: Tensor  # moving average, like `variance`
    variance: Tensor

    def __init__(
        self,
        *,
        levels: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)],
        normalise: Annotated[
            bool,
            Field(description="whether each number is normalised to a fixed mean and variance before it is bounded"),
        ] = True,
    ) -> None:
        super().__init__()
        self.codes, self.dimensions, self.normalise = math.prod(levels), len(levels), normalise
        values = [math.prod(levels[:i]) for i in range(len(levels))]  # Π_{j<i} L_j
        each = torch.tensor(levels).view(-1, 1, 1)
        self.register_buffer("levels", each, persistent=False)
        self.register_buffer("unit", torch.tensor([L // 2 for L in levels]).view(-1, 1, 1), persistent=False)
        self.register_buffer("value", torch.tensor(values).view(-1, 1, 1), persistent=False)
        if normalise:
            self.register_buffer("mean", torch.zeros(each.shape))
            self.register_buffer("variance", torch.ones(each.shape))

    def bound(self, z: Tensor) -> Tensor:
        """Compute z_e = f(z) / ⌊L/2⌋, (B, D, h, w) both."""
        if self.normalise:
            z = self.normalised(z)
        range_ = (self.levels - 1) * (1 + MARGIN) / 2
        lower = 0.5 * (1 - self.levels % 2)
        shift = (lower / range_).atanh() * (self.unit > 1)  # no shift for 2 levels: see the module's docstring
        return ((z + shift).tanh() * range_ - lower) / self.unit

    def normalised(self, z: Tensor) -> Tensor:
        """Normalise each of the D numbers to mean 0 and standard deviation S, (B, D, h, w) both.

        Training uses the moments of the whole batch, evaluation their moving averages.
        """
        mean, variance = self.mean, self.variance
        if self.training:
            mean = self._batch_mean(z)
            variance = self._batch_mean((z - mean).square())
            self.mean.lerp_(mean.detach(), 1 - DECAY)
            self.variance.lerp_(variance.detach(), 1 - DECAY)
        return SPREAD * (z - mean) * (variance + TINY).rsqrt()

    @staticmethod
    def _batch_mean(x: Tensor) -> Tensor:
        """Mean over all places and the images of all processes, with gradient: (B, D, h, w) → (D, 1, 1)."""
        return process_group.gather(x.mean((2, 3), keepdim=True)).mean(0)

    def quantise(self, z_e: Tensor) -> Tensor:
        """Compute Σ_i (k_i + ⌊L_i/2⌋) Π_{j<i} L_j at every place: (B, D, h, w) → (B, h, w)."""
        steps = (z_e * self.unit).round().long() + self.unit
        return (steps.clamp(min=0).minimum(self.levels - 1) * self.value).sum(1)

    def look_up(self, indices: Tensor) -> Tensor:
        """Return k / ⌊L/2⌋: (B, h, w) → (B, D, h, w)."""
        return ((indices.unsqueeze(1) // self.value) % self.levels - self.unit) / self.unit

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:  # noqa: ARG002
        """Quantise z_e, (B, D, h, w), with the straight-through gradient."""
        indices = self.quantise(z_e)
        none = z_e.new_zeros(())
        return Quantized(straight_through(z_e, self.look_up(indices)), indices, none, none)
