"""A codebook of moving averages of the outputs that each code stands for (van den Oord et al. 2017, appendix A.1).

    N_k ← γ N_k + (1 − γ) n_k                  n_k outputs of the batch have the code k
    m_k ← γ m_k + (1 − γ) Σ z_e over these
    e_k = m_k / N_k

N and m are kept relative to uniform use, so N is the usage by which dead codes are known. Laplace smoothing keeps the
denominator from 0: (N_k + ε) / (Σ N + Kε) · Σ N. There is no codebook loss.
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
    """K = `codes` vectors of D = `dimensions`, with the `decay` γ that start as outputs of the first training batch."""

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
        """As for any vectors, without a codebook loss."""
        return replace(super().forward(z_e, generator), codebook_loss=z_e.new_zeros(()))

    def place(self, which: Tensor, vectors: Tensor) -> None:
        """The sums as well, as if the codes had stood for nothing else."""
        super().place(which, vectors)
        self.sums.copy_(torch.where(which, REVIVED * vectors, self.sums))

    @torch.no_grad()
    def learn(self, z_e: Tensor, indices: Tensor) -> None:
        """The moving averages, and with them the codes."""
        super().learn(z_e, indices)
        with torch.autocast(z_e.device.type, enabled=False):
            # (K, D), as the gradient of a look-up: on a GPU, index_add_ would add up in another order each time.
            sums = torch.ops.aten.embedding_dense_backward(rows(z_e), indices.flatten(), self.codes, -1, False)
        self.sums.lerp_(process_group.mean(sums / self.uniform(indices)), 1 - self.decay)
        total = self.usage.sum()
        smoothed = (self.usage + SMOOTHING) / (total + self.codes * SMOOTHING) * total
        self.vectors.copy_(self.sums / smoothed[:, None])
