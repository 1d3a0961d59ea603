"""Finite scalar quantisation: every number is rounded on its own; the codes are all combinations (Mentzer et al. 2023).

    z_e = f(z)        into the range of L steps: tanh(z + shift)·(L − 1)/2, for an even L half a step lower
    k   = round(z_e)  one of L whole numbers, among them 0

The codes are fixed, so there is nothing to learn, to commit to or to restart, and none can be far from the outputs. As
in the paper both z_e and the codes are given in units of ⌊L/2⌋ steps, that is, in [−1, 1].
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from aelab.models.quantizer import Quantized, Quantizer, straight_through

MARGIN = 1e-3  # the outermost steps lie this much inside of the range, else no z would reach them


class FiniteScalar(Quantizer):
    """K = Π L_i codes of D numbers, the i-th of them on one of `levels` L_i evenly spaced steps."""

    levels: Tensor  # (D, 1, 1), as all below
    unit: Tensor
    value: Tensor

    def __init__(self, *, levels: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]) -> None:
        super().__init__()
        self.codes, self.dimensions = math.prod(levels), len(levels)
        each = torch.tensor(levels).view(-1, 1, 1)
        self.register_buffer("levels", each, persistent=False)
        self.register_buffer("unit", each // 2, persistent=False)  # in steps; the lowest one is −1
        self.register_buffer("value", each.cumprod(0) // each, persistent=False)  # of a digit: Π_{j<i} L_j

    def bound(self, z: Tensor) -> Tensor:
        """z_e = f(z) / ⌊L/2⌋, shape (B, D, h, w) both; f(0) = 0."""
        range_ = (self.levels - 1) * (1 + MARGIN) / 2
        lower = 0.5 * (1 - self.levels % 2)
        return ((z + (lower / range_).atanh()).tanh() * range_ - lower) / self.unit

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
