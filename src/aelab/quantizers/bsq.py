"""Binary spherical quantisation: rounds a point of a sphere to a corner of a cube (Zhao et al. 2024, section 4).

    u   = z/‖z‖           D numbers on the unit sphere; z is an output of the encoder
    e   = sign(u)/√D      the nearest of K = 2^D corners, which are on the sphere, too: ‖u − e‖² ≤ 2 − 2/√D
    q_d = σ(2τ u_d/√D)    probability that bit d is 1 if a corner c is drawn with q(c|u) ∝ exp(τ c·u)
    codebook loss = γ Σ_places Σ_d (E[H(q_d)] − H(E[q_d]))

H is the entropy of a bit, and E is the mean over all images and all places of the latent grid. The first term of the
loss makes each choice more certain. The second term brings both values of each bit into use.

The entropy of a whole code would need a sum over 2^D codes, so the loss adds the entropies of its D bits. In the first
term, the sum equals the entropy of the code, because the bits of q(c|u) are independent. In the second term, the sum is
an upper bound on the entropy of the code.

The distance between u and e is bounded, so there is no commitment loss.
"""

import math
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from aelab.core import process_group
from aelab.models.quantizer import TINY, Quantized, Quantizer, straight_through

CERTAIN = 1e-6  # `entropy` clamps probabilities to [CERTAIN, 1 − CERTAIN]


class BinarySpherical(Quantizer):
    """K = 2^D fixed codes of D = `bits` numbers ±1/√D."""

    value: Tensor

    def __init__(
        self,
        *,
        bits: Annotated[int, Field(ge=1, le=24)],
        entropy: Annotated[
            NonNegativeFloat, Field(description="γ, weight of the codebook loss (nats per image)")
        ] = 0.1,
        sharpness: Annotated[
            PositiveFloat, Field(description="τ, inverse temperature of the softmax over the codes")
        ] = 1.0,
    ) -> None:
        super().__init__()
        self.codes, self.dimensions, self.entropy, self.sharpness = 2**bits, bits, entropy, sharpness
        values = torch.tensor([2**bit for bit in range(bits)]).view(-1, 1, 1)
        self.register_buffer("value", values, persistent=False)  # 2^d, the value of bit d in an index

    def bound(self, z: Tensor) -> Tensor:
        """Compute u = z/‖z‖; u and z have the shape (B, D, h, w)."""
        return F.normalize(z, dim=1, eps=TINY)

    def quantise(self, z_e: Tensor) -> Tensor:
        """Find the index of each place's code, the sum of 2^d over all d with u_d > 0: (B, D, h, w) → (B, h, w)."""
        return ((z_e > 0) * self.value).sum(1)

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the codes as vectors of numbers ±1/√D: (B, h, w) → (B, D, h, w)."""
        bits = indices.unsqueeze(1) // self.value % 2
        return (2 * bits - 1) / math.sqrt(self.dimensions)

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:  # noqa: ARG002
        """Quantise z_e, (B, D, h, w), with the straight-through gradient."""
        indices = self.quantise(z_e)
        q = (z_e * (2 * self.sharpness / math.sqrt(self.dimensions))).sigmoid()
        used = process_group.gather(q.mean((2, 3))).mean(0)  # E[q_d] over the images in all processes, (D,)
        places = z_e[0, 0].numel()
        return Quantized(
            z_q=straight_through(z_e, self.look_up(indices)),
            indices=indices,
            codebook_loss=self.entropy * (entropy(q).sum((1, 2, 3)).mean() - places * entropy(used).sum()),
            commitment_loss=z_e.new_zeros(()),
        )


def entropy(p: Tensor) -> Tensor:
    """Entropy in nats of a bit that is 1 with probability p; `p` has any shape."""
    p = p.clamp(CERTAIN, 1 - CERTAIN)  # at 0 and 1 the gradient would be infinite
    return torch.special.entr(p) + torch.special.entr(1 - p)
