"""What the quantisers share whose codes are vectors: the nearest one is the code, and dead ones restart.

Without a cure most codes are never used again, since only a code that is used moves towards the outputs. A code that
is (almost) out of use restarts as one of the encoder's current outputs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from aelab.core import process_group
from aelab.models.quantizer import GRADIENTS, Gradient, Quantized, Quantizer, rows

DECAY = 0.99  # of the moving average of each code's usage, per training step
DEAD = 0.01  # a code is dead when it is used less than this share of what uniform use would give it,
REVIVED = 0.1  # and counts as used this much when it restarts, so that it has time to find its place
UNBORN = -1.0  # the usage of a code that has no place yet: it restarts in any case


class NearestVector(Quantizer):
    """K vectors e_1 … e_K, of which the nearest one is the code."""

    vectors: Tensor  # (K, D)

    def __init__(self, codes: int, dimensions: int, *, gradient: Gradient) -> None:
        super().__init__()
        self.codes, self.dimensions, self.gradient = codes, dimensions, GRADIENTS[gradient]

    @torch.no_grad()
    def quantise(self, z_e: Tensor) -> Tensor:
        """k = argmin_j ‖z_e − e_j‖ at every place: (B, D, h, w) → (B, h, w)."""
        batch, _, height, width = z_e.shape
        with torch.autocast(z_e.device.type, enabled=False):  # in bfloat16 another code could seem the nearest
            # ‖z − e‖² = ‖z‖² − 2 z·e + ‖e‖², whose first term is the same for every e
            vectors = self.vectors
            distances = torch.addmm(vectors.square().sum(1), rows(z_e), vectors.T, alpha=-2)  # (B·h·w, K)
        return distances.argmin(1).view(batch, height, width)

    def look_up(self, indices: Tensor) -> Tensor:
        """e_k: (B, h, w) → (B, D, h, w)."""
        return F.embedding(indices, self.vectors).permute(0, 3, 1, 2)

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:  # noqa: ARG002
        """Quantise z_e, shape (B, D, h, w)."""
        indices = self.quantise(z_e)
        e = self.look_up(indices)
        return Quantized(
            z_q=self.gradient(z_e, e),
            indices=indices,
            codebook_loss=squared_distance(z_e.detach(), e),
            commitment_loss=squared_distance(z_e, e.detach()),
        )


class VectorQuantizer(NearestVector):
    """Vectors, a parameter or a buffer, each with a place of its own; all restart in the first training batches."""

    usage: Tensor  # relative to uniform use
    decay = DECAY

    def __init__(self, codes: int, dimensions: int, *, restarts: bool, gradient: Gradient) -> None:
        super().__init__(codes, dimensions, gradient=gradient)
        self.restarts = restarts
        self.register_buffer("usage", torch.full((codes,), UNBORN))

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise z_e, shape (B, D, h, w); in training mode, restart dead codes before and learn from usage after."""
        if self.training:
            self.restart(z_e, generator)
        quantized = super().forward(z_e, generator)
        if self.training:
            self.learn(z_e, quantized.indices)
        return quantized

    @torch.no_grad()
    def restart(self, z_e: Tensor, generator: torch.Generator) -> None:
        """Restart dead codes, each as another one of the outputs; where there are more of them, the rest waits."""
        outputs = rows(z_e)
        count = process_group.whole(len(outputs))
        drawn = torch.rand(count, generator=generator, device=outputs.device).argsort()
        dead = self.usage < (DEAD if self.restarts else 0.0)
        number = dead.cumsum(0) - 1  # of each dead code among them
        restarted = dead & (number < count)
        chosen = process_group.pick(outputs, drawn[number.clamp(0, count - 1)])
        self.place(restarted[:, None], chosen)
        self.usage.masked_fill_(restarted, REVIVED)

    def place(self, which: Tensor, vectors: Tensor) -> None:
        """Put those codes that are marked in `which`, (K, 1), at the `vectors`, (K, D)."""
        self.vectors.copy_(torch.where(which, vectors, self.vectors))

    @torch.no_grad()
    def learn(self, z_e: Tensor, indices: Tensor) -> None:  # noqa: ARG002
        """After a training batch was quantised: record how often each code was used."""
        self.usage.lerp_(process_group.mean(self.counts(indices) / self.uniform(indices)), 1 - self.decay)

    def uniform(self, indices: Tensor) -> float:
        """How often each code would occur in `indices` if all were used alike."""
        return indices.numel() / self.codes


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """‖x − y‖² summed per image, averaged over the batch: (B, D, h, w) both → ()."""
    return (x - y).square().sum((1, 2, 3)).mean()
