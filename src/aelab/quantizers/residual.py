"""Residual quantisation: each codebook quantises the error of the codebooks before it (Zeghidour et al. 2021).

    r_1 = z_e,   e_d = the vector of codebook d nearest to r_d,   r_{d+1} = r_d − e_d,   e = Σ_d e_d    (algorithm 1)

Codebook d is called level d. The codebook loss and the commitment loss are sums over the levels. Since
‖r_d − e_d‖² = ‖z_e − Σ_{j≤d} e_j‖², the commitment loss pulls z_e towards every partial sum of the e_j
(Lee et al. 2022, equation 8).

Each place of the encoder's grid (h, w) has one index for each level. In the grid of indices, (h, w·depth), the indices
of a place are side by side.
"""

from typing import Annotated, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from aelab.models.quantizer import GRADIENTS, Gradient, Grid, Quantized, Quantizer, Restarts
from aelab.quantizers.codebook import Codebook


class Residual(Quantizer):
    """`depth` codebooks, each with K = `codes` vectors of D = `dimensions` numbers."""

    def __init__(
        self,
        *,
        codes: PositiveInt,
        dimensions: PositiveInt,
        depth: Annotated[int, Field(ge=1, le=100)],
        restarts: Restarts = True,
        gradient: Gradient = "straight_through",
    ) -> None:
        super().__init__()
        self.codes, self.dimensions, self.depth, self.gradient = codes, dimensions, depth, GRADIENTS[gradient]
        self.levels = nn.ModuleList(
            Codebook(codes=codes, dimensions=dimensions, restarts=restarts) for _ in range(depth)
        )

    @property
    def entries(self) -> int:
        """Number of codes in all codebooks, K·depth."""
        return self.codes * self.depth

    def grid(self, places: Grid) -> Grid:
        """Return the grid of the indices: (h, w) → (h, w·depth)."""
        return places[0], places[1] * self.depth

    @torch.no_grad()
    def quantise(self, z_e: Tensor) -> Tensor:
        """Find the codes of all levels: (B, D, h, w) → (B, h, w·depth)."""
        residual, indices = z_e, []
        for level in self._codebooks():
            indices.append(level.quantise(residual))
            residual = residual - level.look_up(indices[-1])
        return torch.stack(indices, -1).flatten(2)

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the sum e of the codes of all levels: (B, h, w·depth) → (B, D, h, w)."""
        each = indices.unflatten(2, (-1, self.depth)).unbind(-1)
        return torch.stack([level.look_up(k) for level, k in zip(self._codebooks(), each, strict=True)]).sum(0)

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise z_e, (B, D, h, w), level by level. In training mode, each codebook may restart unused codes."""
        residual, made = z_e, []
        for level in self._codebooks():
            made.append(level(residual, generator))
            residual = residual - made[-1].z_q.detach()
        e = torch.stack([each.z_q.detach() for each in made]).sum(0)
        return Quantized(
            z_q=self.gradient(z_e, e),
            indices=torch.stack([each.indices for each in made], -1).flatten(2),
            codebook_loss=torch.stack([each.codebook_loss for each in made]).sum(),
            commitment_loss=torch.stack([each.commitment_loss for each in made]).sum(),
        )

    def counts(self, indices: Tensor) -> Tensor:
        """Count how often each code occurs: K counts for each level, one level after the other, (K·depth,).

        All levels have the same number of indices. Therefore the perplexity of the counts is depth times the geometric
        mean of the levels' perplexities.
        """
        level = torch.arange(self.depth, device=indices.device)
        return super().counts(indices.unflatten(2, (-1, self.depth)) + level * self.codes)

    def _codebooks(self) -> list[Codebook]:
        return cast("list[Codebook]", list(self.levels))
