"""Finite scalar quantisation: rounds each number of a vector separately to one of L values (Mentzer et al. 2023).

    z_e = f(z)        f(z) = tanh(z + shift)·(L − 1)/2, minus ½ for an even L; f bounds the number z
    k   = round(z_e)  one of L successive whole numbers, called steps, including 0

A code is a combination of D steps, one for each number of the vector. The codes are fixed, so there is no codebook loss
and no restart. Every z_e is near a code, so there is no commitment loss. As in the paper, z_e and k are then divided by
⌊L/2⌋, so that the codes are in [−1, 1]. Two details differ from the paper:

    z ← S·(z − E[z])/√Var[z]   before f, with mean and variance of each number over the batch (Ioffe & Szegedy 2015).
                               Without this normalisation, an encoder that starts on a few steps uses only these steps.
    L = 2                      has no shift. With a shift, f(0) = 0 would be the upper end of the range, where f is flat
                               (f′ = 0.001).

The gradient passes through E[z] and Var[z]. When both were constants instead, a quarter of the codes stayed unused.

The normalisation cancels the bias of the encoder's last layer, so the gradient of this bias is only rounding error.
Adam scales this error up to full updates. The bias therefore drifts, and the moving average of E[z] follows the drift.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from aelab.core import process_group
from aelab.models.quantizer import Quantized, Quantizer, straight_through

DECAY = 0.9  # The moving averages of mean and variance decay by this factor in a training step.
SPREAD = 1.5  # S. With S = 1, combinations of outermost steps may stay unused if the D numbers are correlated.
TINY = 1e-5  # Constant that is added to the variance, as in batch normalisation.
MARGIN = 1e-3  # The range of f is larger than the span of the steps by this share, so that f reaches the end steps.


class FiniteScalar(Quantizer):
    """K = Π L_i fixed codes of D numbers. Number i has one of L_i evenly spaced values; `levels` lists L_1 … L_D."""

    levels: Tensor  # L_1 … L_D, (D, 1, 1); the other buffers have the same shape
    unit: Tensor  # ⌊L/2⌋
    value: Tensor  # Π_{j<i} L_j, the factor of number i in an index
    mean: Tensor  # moving average of E[z]
    variance: Tensor  # moving average of Var[z]

    def __init__(
        self,
        *,
        levels: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)],
        normalise: Annotated[
            bool,
            Field(description="whether each number is first normalised to a fixed mean and variance"),
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
        """Compute z_e = f(z) / ⌊L/2⌋; z and z_e have the shape (B, D, h, w)."""
        if self.normalise:
            z = self.normalised(z)
        range_ = (self.levels - 1) * (1 + MARGIN) / 2
        lower = 0.5 * (1 - self.levels % 2)
        shift = (lower / range_).atanh() * (self.unit > 1)  # no shift for 2 levels: see the module's docstring
        return ((z + shift).tanh() * range_ - lower) / self.unit

    def normalised(self, z: Tensor) -> Tensor:
        """Normalise each of the D numbers of z, (B, D, h, w), to mean 0 and standard deviation S.

        Training uses the mean and variance of the whole batch. Evaluation uses the moving averages.
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
        """Mean over the places of the images in all processes, with a gradient: (B, D, h, w) → (D, 1, 1)."""
        return process_group.gather(x.mean((2, 3), keepdim=True)).mean(0)

    def quantise(self, z_e: Tensor) -> Tensor:
        """Find the index of each place's code, Σ_i (k_i + ⌊L_i/2⌋) Π_{j<i} L_j: (B, D, h, w) → (B, h, w)."""
        steps = (z_e * self.unit).round().long() + self.unit
        return (steps.clamp(min=0).minimum(self.levels - 1) * self.value).sum(1)

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the codes as vectors of numbers k / ⌊L/2⌋: (B, h, w) → (B, D, h, w)."""
        return ((indices.unsqueeze(1) // self.value) % self.levels - self.unit) / self.unit

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:  # noqa: ARG002
        """Quantise z_e, (B, D, h, w), with the straight-through gradient."""
        indices = self.quantise(z_e)
        none = z_e.new_zeros(())
        return Quantized(straight_through(z_e, self.look_up(indices)), indices, none, none)
