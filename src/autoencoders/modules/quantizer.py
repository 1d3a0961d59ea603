"""The codebook of a VQ-VAE (van den Oord et al. 2017, sections 3.1 and 3.2).

Dimensions: B batch, (h, w) latent grid, D size of a code vector, K codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DECAY = 0.99  # of the moving average of each code's usage, per training step
DEAD = 0.01  # a code is dead when it is used less than this share of what uniform use would give it,
REVIVED = 0.1  # and counts as used this much when it restarts, so that it has time to find its place


@dataclass(frozen=True)
class Quantized:
    """A batch of encoder outputs after the codebook; the two losses are sums per image, averaged over the batch."""

    z_q: Tensor  # (B, D, h, w), with the straight-through gradient
    indices: Tensor  # (B, h, w)
    codebook_loss: Tensor  # ‖sg[z_e] − e‖²
    commitment_loss: Tensor  # ‖z_e − sg[e]‖²


class Codebook(nn.Module):
    """K vectors, learned by gradient descent on the codebook loss as in equation 3.

    Without a cure most codes are never used again. Here a code that is (almost) out of use restarts as one of the
    encoder's current outputs. All codes count as unused at first, so the first training batch initialises them all.
    """

    usage: Tensor

    def __init__(self, codes: int, size: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(codes, size))
        self.register_buffer("usage", torch.zeros(codes))  # relative to uniform use

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise z_e, shape (B, D, h, w); in training mode, restart dead codes first and record the usage."""
        if self.training:
            self._restart_dead(z_e, generator)
        indices = self.nearest(z_e)
        if self.training:
            self._record(indices)
        e = self.lookup(indices)
        return Quantized(
            z_q=z_e + (e - z_e).detach(),  # straight-through: the value of e, the gradient of z_e
            indices=indices,
            codebook_loss=(z_e.detach() - e).square().sum((1, 2, 3)).mean(),
            commitment_loss=(z_e - e.detach()).square().sum((1, 2, 3)).mean(),
        )

    @torch.no_grad()
    def nearest(self, z_e: Tensor) -> Tensor:
        """K = argmin_j ‖z_e − e_j‖ at every position (equation 1): (B, D, h, w) → (B, h, w)."""
        batch, _, height, width = z_e.shape
        with torch.autocast(z_e.device.type, enabled=False):  # in bfloat16 another code could seem the nearest
            # ‖z − e‖² = ‖z‖² − 2 z·e + ‖e‖², whose first term is the same for every e
            distances = torch.addmm(self.vectors.square().sum(1), _rows(z_e), self.vectors.T, alpha=-2)  # (B·h·w, K)
        return distances.argmin(1).view(batch, height, width)

    def lookup(self, indices: Tensor) -> Tensor:
        """The vectors of the codes: (B, h, w) → (B, D, h, w)."""
        return F.embedding(indices, self.vectors).permute(0, 3, 1, 2)

    def counts(self, indices: Tensor) -> Tensor:
        """How often each code occurs in `indices`: (K,)."""
        flat = indices.flatten()
        # torch.bincount would wait for a GPU. Whole numbers add up to the same in any order.
        return torch.zeros_like(self.usage).index_add_(0, flat, torch.ones_like(flat, dtype=self.usage.dtype))

    @torch.no_grad()
    def _restart_dead(self, z_e: Tensor, generator: torch.Generator) -> None:
        rows = _rows(z_e)
        chosen = torch.randint(len(rows), (len(self.vectors),), generator=generator, device=rows.device)
        dead = self.usage < DEAD
        self.vectors.copy_(torch.where(dead[:, None], rows[chosen], self.vectors))
        self.usage.masked_fill_(dead, REVIVED)

    @torch.no_grad()
    def _record(self, indices: Tensor) -> None:
        uniform = indices.numel() / len(self.usage)
        self.usage.lerp_(self.counts(indices) / uniform, 1 - DECAY)


def _rows(z: Tensor) -> Tensor:
    """(B, D, h, w) → (B·h·w, D)."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
