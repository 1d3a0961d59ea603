"""Quantisers, one file each: what turns an encoder's output on a grid into one of K codes at every position.

Dimensions: B batch, (h, w) latent grid, D size of a code vector, K codes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import torch
from torch import Tensor, nn

from autoencoders.parts import Kind


@dataclass(frozen=True)
class Quantized:
    """A batch of encoder outputs after quantisation; the two losses are sums per image, averaged over the batch."""

    z_q: Tensor  # (B, D, h, w), with the straight-through gradient
    indices: Tensor  # (B, h, w)
    codebook_loss: Tensor  # ‖sg[z_e] − e‖²
    commitment_loss: Tensor  # ‖z_e − sg[e]‖²


class Quantizer(nn.Module, ABC):
    """What a VQ-VAE asks of its codes.

    Attributes:
        codes: K.
        size: D, the numbers that the encoder gives for each position.
    """

    codes: int
    size: int

    @abstractmethod
    def quantise(self, z_e: Tensor) -> Tensor:
        """The code of every position: (B, D, h, w) → (B, h, w)."""

    @abstractmethod
    def look_up(self, indices: Tensor) -> Tensor:
        """The vectors of the codes: (B, h, w) → (B, D, h, w)."""

    def prepare(self, z_e: Tensor, generator: torch.Generator) -> None:
        """Before a training batch is quantised: change what is best changed from its encoder outputs."""

    def learn(self, z_e: Tensor, indices: Tensor) -> None:
        """After a training batch was quantised: learn from the statistics of its outputs and codes."""

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise z_e, shape (B, D, h, w); in training mode, `prepare` first and `learn` afterwards."""
        if self.training:
            self.prepare(z_e, generator)
        indices = self.quantise(z_e)
        if self.training:
            self.learn(z_e, indices)
        e = self.look_up(indices)
        return Quantized(
            z_q=z_e + (e - z_e).detach(),  # straight-through: the value of e, the gradient of z_e
            indices=indices,
            codebook_loss=(z_e.detach() - e).square().sum((1, 2, 3)).mean(),
            commitment_loss=(z_e - e.detach()).square().sum((1, 2, 3)).mean(),
        )

    def counts(self, indices: Tensor) -> Tensor:
        """How often each code occurs in `indices`: (K,)."""
        flat = indices.flatten()
        # torch.bincount would wait for a GPU. Whole numbers add up to the same in any order.
        return torch.zeros(self.codes, device=flat.device).index_add_(
            0, flat, torch.ones(len(flat), device=flat.device)
        )


QUANTIZERS: Kind[Quantizer] = Kind(__name__, Quantizer, "quantiser")  # type: ignore[type-abstract]
QuantizerSection: TypeAlias = Annotated[dict[str, Any], QUANTIZERS]


def rows(z: Tensor) -> Tensor:
    """A grid's vectors one below the other: (B, D, h, w) → (B·h·w, D)."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
