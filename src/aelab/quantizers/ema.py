"""Codebook whose vectors are moving averages of the encoder outputs with their code (van den Oord et al. 2017).

    N_k ← γ N_k + (1 − γ) n_k                  n_k outputs of the batch have the code k
    m_k ← γ m_k + (1 − γ) Σ z_e                over these n_k outputs
    e_k = m_k / N_k

The equations are in appendix A.1. Here N and m are divided by the number of outputs that a code would have under
uniform use, so that N is also the usage that identifies dead codes. Laplace smoothing keeps the denominator above 0:
(N_k + ε) / (Σ N + Kε) · Σ N. There is no codebook loss.
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
    """K = `codes` vectors of D = `dimensions` numbers, as moving averages with the `decay` γ.

    The vectors start at outputs of the first training batches.
    """

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
        """Set the codes marked in `which`, (K, 1), to `vectors`, (K, D), and reset their sums."""
        super().place(which, vectors)
        self.sums.copy_(torch.where(which, REVIVED * vectors, self.sums))

    @torch.no_grad()
    def learn(self, z_e: Tensor, indices: Tensor) -> None:
        """Update the moving averages, and from them the vectors."""
        super().learn(z_e, indices)
        with torch.autocast(z_e.device.type, enabled=False):
            # The sums (K, D) are the gradient of a look-up. On a GPU, index_add_ would add in a different order each
            # time.
            sums = torch.ops.aten.embedding_dense_backward(rows(z_e), indices.flatten(), self.codes, -1, False)
        self.sums.lerp_(process_group.mean(sums / self.uniform(indices)), 1 - self.decay)
        total = self.usage.sum()
        smoothed = (self.usage + SMOOTHING) / (total + self.codes * SMOOTHING) * total
        self.vectors.copy_(self.sums / smoothed[:, None])
