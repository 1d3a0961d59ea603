"""A codebook learned by gradient descent on the codebook loss (van den Oord et al. 2017, sections 3.1 and 3.2).

Without a cure most codes are never used again. Here a code that is (almost) out of use restarts as one of the encoder's
current outputs. All codes count as unused at first, so the first training batches initialise them all.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoders.quantizers import Quantizer, rows

DECAY = 0.99  # of the moving average of each code's usage, per training step
DEAD = 0.01  # a code is dead when it is used less than this share of what uniform use would give it,
REVIVED = 0.1  # and counts as used this much when it restarts, so that it has time to find its place


class Codebook(Quantizer):
    """K vectors e_1 … e_K."""

    usage: Tensor

    def __init__(self, *, codes: PositiveInt, size: PositiveInt) -> None:
        super().__init__()
        self.codes, self.size = codes, size
        self.vectors = nn.Parameter(torch.zeros(codes, size))
        self.register_buffer("usage", torch.zeros(codes))  # relative to uniform use

    @torch.no_grad()
    def quantise(self, z_e: Tensor) -> Tensor:
        """k = argmin_j ‖z_e − e_j‖ at every position (equation 1): (B, D, h, w) → (B, h, w)."""
        batch, _, height, width = z_e.shape
        with torch.autocast(z_e.device.type, enabled=False):  # in bfloat16 another code could seem the nearest
            # ‖z − e‖² = ‖z‖² − 2 z·e + ‖e‖², whose first term is the same for every e
            distances = torch.addmm(self.vectors.square().sum(1), rows(z_e), self.vectors.T, alpha=-2)  # (B·h·w, K)
        return distances.argmin(1).view(batch, height, width)

    def look_up(self, indices: Tensor) -> Tensor:
        """e_k: (B, h, w) → (B, D, h, w)."""
        return F.embedding(indices, self.vectors).permute(0, 3, 1, 2)

    @torch.no_grad()
    def prepare(self, z_e: Tensor, generator: torch.Generator) -> None:
        """Restart dead codes, each as another one of the outputs; where there are more of them, the rest waits."""
        outputs = rows(z_e)
        drawn = torch.rand(len(outputs), generator=generator, device=outputs.device).argsort()
        dead = self.usage < DEAD
        place = dead.cumsum(0) - 1  # of each dead code among them
        restarted = dead & (place < len(outputs))
        chosen = outputs[drawn[place.clamp(0, len(outputs) - 1)]]
        self.vectors.copy_(torch.where(restarted[:, None], chosen, self.vectors))
        self.usage.masked_fill_(restarted, REVIVED)

    @torch.no_grad()
    def learn(self, z_e: Tensor, indices: Tensor) -> None:  # noqa: ARG002
        """Record how often each code was used."""
        uniform = indices.numel() / self.codes
        self.usage.lerp_(self.counts(indices) / uniform, 1 - DECAY)
