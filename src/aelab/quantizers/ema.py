"""Codebook of moving averages: each vector averages the encoder outputs assigned to it (van den Oord et al. 2017).

    N_k ← γ N_k + (1 − γ) n_k      n_k: number of outputs in the batch whose nearest vector is e_k
    m_k ← γ m_k + (1 − γ) Σ z_e    the sum over these n_k outputs
    e_k = m_k / N_k

The equations are from appendix A.1 of the paper. This module also divides n_k and Σ z_e by the number of outputs that
each code would have under uniform use. Then N_k is the usage by which `VectorQuantizer` finds unused codes.

Laplace smoothing replaces N_k in the denominator by (N_k + ε) / (Σ_j N_j + Kε) · Σ_j N_j, which is above 0. There is no
codebook loss, because no gradient moves the vectors.
"""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from aelab.core import process_group
from aelab.models.quantizer import Gradient, Quantized, Restarts, rows
from aelab.quantizers._vectors import DECAY, REVIVED, VectorQuantizer

SMOOTHING = 1e-5  # ε


class MovingAverages(VectorQuantizer):
    """K = `codes` vectors of D = `dimensions` numbers, moving averages of encoder outputs with the `decay` γ."""

    sums: Tensor

    def __init__(
        self,
        *,
        codes: PositiveInt,
        dimensions: PositiveInt,
        decay: Annotated[float, Field(ge=0, lt=1)] = DECAY,
        restarts: Restarts = True,
        gradient: Gradient = "straight_through",
    ) -> None:
        super().__init__(codes, dimensions, restarts=restarts, gradient=gradient)
        self.decay = decay
        self.register_buffer("vectors", torch.zeros(codes, dimensions))
        self.register_buffer("sums", torch.zeros(codes, dimensions))  # m

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise z_e, (B, D, h, w), and set the codebook loss to 0."""
        return replace(super().forward(z_e, generator), codebook_loss=z_e.new_zeros(()))

    def place(self, which: Tensor, vectors: Tensor) -> None:
        """Set each code marked in `which`, (K, 1), to its row of `vectors`, (K, D).

        The sum m of this code becomes `REVIVED` times the row, because N is `REVIVED` after a restart.
        """
        super().place(which, vectors)
        self.sums.copy_(torch.where(which, REVIVED * vectors, self.sums))

    @torch.no_grad()
    def learn(self, z_e: Tensor, indices: Tensor) -> None:
        """Update the moving averages N and m, and compute the vectors from N and m."""
        super().learn(z_e, indices)
        with torch.autocast(z_e.device.type, enabled=False):
            # The sum of each code's outputs, (K, D), is the gradient of an embedding. On a GPU, index_add_ would add in
            # a different order in each run.
            sums = torch.ops.aten.embedding_dense_backward(rows(z_e), indices.flatten(), self.codes, -1, False)
        self.sums.lerp_(process_group.mean(sums / self.uniform(indices)), 1 - self.decay)
        total = self.usage.sum()
        smoothed = (self.usage + SMOOTHING) / (total + self.codes * SMOOTHING) * total
        self.vectors.copy_(self.sums / smoothed[:, None])
