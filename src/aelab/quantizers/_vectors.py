"""Base classes of the quantisers whose codes are vectors: the nearest vector is the code, and dead codes restart.

Only a code in use moves towards the encoder's outputs, so without restarts most codes would stay unused. A dead
code, which is (almost) unused, restarts at one of the encoder's current outputs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from aelab.core import process_group
from aelab.models.quantizer import GRADIENTS, Gradient, Quantized, Quantizer, rows

DECAY = 0.99  # The moving average of each code's usage decays by this factor in a training step.
DEAD = 0.01  # A code is dead if its usage is below this share of uniform use.
REVIVED = 0.1  # Usage of a code after a restart. The code then has time to find outputs.
UNBORN = -1.0  # Usage of a code that has no vector yet. The code restarts even if restarts are switched off.


class NearestVector(Quantizer):
    """K vectors e_1 … e_K. The vector nearest to an output is its code."""

    vectors: Tensor  # (K, D)

    def __init__(self, codes: int, dimensions: int, *, gradient: Gradient) -> None:
        super().__init__()
        self.codes, self.dimensions, self.gradient = codes, dimensions, GRADIENTS[gradient]

    @torch.no_grad()
    def quantise(self, z_e: Tensor) -> Tensor:
        """Find k = argmin_j ‖z_e − e_j‖ at every place: (B, D, h, w) → (B, h, w)."""
        batch, _, height, width = z_e.shape
        with torch.autocast(z_e.device.type, enabled=False):  # bfloat16 could change the nearest code
            # ‖z − e‖² = ‖z‖² − 2 z·e + ‖e‖². The first term is the same for every e.
            vectors = self.vectors
            distances = torch.addmm(vectors.square().sum(1), rows(z_e), vectors.T, alpha=-2)  # (B·h·w, K)
        return distances.argmin(1).view(batch, height, width)

    def look_up(self, indices: Tensor) -> Tensor:
        """Return e_k: (B, h, w) → (B, D, h, w)."""
        return F.embedding(indices, self.vectors).permute(0, 3, 1, 2)

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:  # noqa: ARG002
        """Quantise z_e, (B, D, h, w)."""
        indices = self.quantise(z_e)
        e = self.look_up(indices)
        return Quantized(
            z_q=self.gradient(z_e, e),
            indices=indices,
            codebook_loss=squared_distance(z_e.detach(), e),
            commitment_loss=squared_distance(z_e, e.detach()),
        )


class VectorQuantizer(NearestVector):
    """Quantiser that counts how often each of its vectors is used, and restarts dead codes.

    The vectors are a parameter or a buffer. Restarts in the first training batches set their initial values, unless a
    subclass sets these values.
    """

    usage: Tensor  # (K,), relative to uniform use
    decay = DECAY

    def __init__(self, codes: int, dimensions: int, *, restarts: bool, gradient: Gradient) -> None:
        super().__init__(codes, dimensions, gradient=gradient)
        self.restarts = restarts
        self.register_buffer("usage", torch.full((codes,), UNBORN))

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise z_e, (B, D, h, w). In training mode, dead codes restart first, and usage is updated last."""
        if self.training:
            self.restart(z_e, generator)
        quantized = super().forward(z_e, generator)
        if self.training:
            self.learn(z_e, quantized.indices)
        return quantized

    @torch.no_grad()
    def restart(self, z_e: Tensor, generator: torch.Generator) -> None:
        """Restart each dead code at a different output.

        If there are more dead codes than outputs, the remaining codes restart in a later batch.
        """
        outputs = rows(z_e)
        count = process_group.whole(len(outputs))
        drawn = torch.rand(count, generator=generator, device=outputs.device).argsort()
        dead = self.usage < (DEAD if self.restarts else 0.0)
        number = dead.cumsum(0) - 1  # position of each dead code among the dead codes
        restarted = dead & (number < count)
        chosen = process_group.pick(outputs, drawn[number.clamp(0, count - 1)])
        self.place(restarted[:, None], chosen)
        self.usage.masked_fill_(restarted, REVIVED)

    def place(self, which: Tensor, vectors: Tensor) -> None:
        """Set each code that is marked in `which`, (K, 1), to its row of `vectors`, (K, D)."""
        self.vectors.copy_(torch.where(which, vectors, self.vectors))

    @torch.no_grad()
    def learn(self, z_e: Tensor, indices: Tensor) -> None:  # noqa: ARG002
        """Update the usage of each code from the indices of a training batch."""
        self.usage.lerp_(process_group.mean(self.counts(indices) / self.uniform(indices)), 1 - self.decay)

    def uniform(self, indices: Tensor) -> float:
        """Return how often each code would occur in `indices` under uniform use."""
        return indices.numel() / self.codes


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Compute ‖x − y‖², summed over each image and averaged over the batch: (B, D, h, w) both → ()."""
    return (x - y).square().sum((1, 2, 3)).mean()
