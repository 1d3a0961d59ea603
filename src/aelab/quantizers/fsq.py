"""Finite scalar quantisation: every number is rounded on its own; the codes are all combinations (Mentzer et al. 2023).

    z_e = f(z)        into the range of L steps: tanh(z + shift)·(L − 1)/2, for an even L half a step lower
    k   = round(z_e)  one of L whole numbers, among them 0

The codes are fixed, so there is nothing to learn, to commit to or to restart, and none can be far from the outputs. As
in the paper both z_e and the codes are given in units of ⌊L/2⌋ steps, that is, in [−1, 1]. Not the paper's:

    z ← S·(z − E[z])/√Var[z]   before f, by the moments of each number over the batch (Ioffe & Szegedy 2015): else an
                               encoder whose outputs lie on a few steps stays there
    L = 2                      no shift: f(0) = 0 would be an end of the range, where f′ = 0.001

A gradient passes through the moments; held constant, they left a quarter of the codes unused. So the encoder's last
bias has no gradient but rounding, which Adam turns into steps: it wanders, and the moving averages follow.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from aelab.core import process_group
from aelab.models.quantizer import Quantized, Quantizer, straight_through

DECAY = 0.9  # of the moving averages of the moments, per training step
SPREAD = 1.5  # S; with 1, the codes at the corners of the grid may stay empty where the numbers are correlated
TINY = 1e-5  # added to the variance, as batch normalisation does
MARGIN = 1e-3  # the outermost steps lie this much inside of the range, else no z would reach them


class FiniteScalar(Quantizer):
    """K = Π L_i codes of D numbers, the i-th of them on one of `levels` L_i evenly spaced steps."""

    levels: Tensor  # (D, 1, 1), as all below
    unit: Tensor  # the lowest step is −1 of these
    value: Tensor
    mean: Tensor  # moving averages of the encoder's output
    variance: Tensor

    def __init__(
        self,
        *,
        levels: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)],
        normalise: Annotated[
            bool, Field(description="whether each number is brought to one mean and variance before it is bounded")
        ] = True,
    ) -> None:
        super().__init__()
        self.codes, self.dimensions, self.normalise = math.prod(levels), len(levels), normalise
        values = [math.prod(levels[:i]) for i in range(len(levels))]  # of a digit: Π_{j<i} L_j
        each = torch.tensor(levels).view(-1, 1, 1)
        self.register_buffer("levels", each, persistent=False)
        self.register_buffer("unit", torch.tensor([L // 2 for L in levels]).view(-1, 1, 1), persistent=False)
        self.register_buffer("value", torch.tensor(values).view(-1, 1, 1), persistent=False)
        if normalise:
            self.register_buffer("mean", torch.zeros(each.shape))
            self.register_buffer("variance", torch.ones(each.shape))

    def bound(self, z: Tensor) -> Tensor:
        """z_e = f(z) / ⌊L/2⌋, shape (B, D, h, w) both."""
        if self.normalise:
            z = self.normalised(z)
        range_ = (self.levels - 1) * (1 + MARGIN) / 2
        lower = 0.5 * (1 - self.levels % 2)
        shift = (lower / range_).atanh() * (self.unit > 1)  # of 2 levels 0 is the border, where f is steepest
        return ((z + shift).tanh() * range_ - lower) / self.unit

    def normalised(self, z: Tensor) -> Tensor:
        """z with mean 0 and standard deviation S in each of its D numbers: (B, D, h, w) both.

        By the moments of the whole batch in training, and by their moving averages else.
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
        """Over the images of all processes and all places, with the gradient: (B, D, h, w) → (D, 1, 1)."""
        return process_group.gather(x.mean((2, 3), keepdim=True)).mean(0)

    def quantise(self, z_e: Tensor) -> Tensor:
        """Σ_i (k_i + ⌊L_i/2⌋) Π_{j<i} L_j at every place: (B, D, h, w) → (B, h, w)."""
        steps = (z_e * self.unit).round().long() + self.unit
        return (steps.clamp(min=0).minimum(self.levels - 1) * self.value).sum(1)

    def look_up(self, indices: Tensor) -> Tensor:
        """k / ⌊L/2⌋: (B, h, w) → (B, D, h, w)."""
        return ((indices.unsqueeze(1) // self.value) % self.levels - self.unit) / self.unit

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:  # noqa: ARG002
        """Quantise z_e, shape (B, D, h, w); the gradient is straight-through."""
        indices = self.quantise(z_e)
        none = z_e.new_zeros(())
        return Quantized(straight_through(z_e, self.look_up(indices)), indices, none, none)
