"""Base classes of quantisers that choose the nearest of K code vectors. `VectorQuantizer` restarts unused codes.

An output is the encoder's vector at one place of an image's grid. In training, only codes in use move towards the
outputs. Without restarts, most codes would therefore stay unused. A restart sets the vector of an unused code to an
output of the current batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from aelab.core import process_group
from aelab.models.quantizer import GRADIENTS, Gradient, Quantized, Quantizer, rows

# The usage of a code is a moving average of the code's relative frequency. The relative frequency is 1 if all codes are
# chosen equally often.
DECAY = 0.99  # Factor by which the moving average decays in each training step.
DEAD = 0.01  # A code with a usage below this value is dead.
REVIVED = 0.1  # Usage of a code just after a restart. Without use, the code is dead again only after many steps.
UNBORN = -1.0  # Usage of a code that has no vector yet. Such a code gets its first vector even with `restarts: false`.


class NearestVector(Quantizer):
    """Quantiser with K code vectors e_1 … e_K. The code of an output is the index of the nearest vector."""

    vectors: Tensor  # (K, D)

    def __init__(self, codes: int, dimensions: int, *, gradient: Gradient) -> None:
        super().__init__()
        self.codes, self.dimensions, self.gradient = codes, dimensions, GRADIENTS[gradient]

    @torch.no_grad()
    def quantise(self, z_e: Tensor) -> Tensor:
        """Find k = argmin_j ‖z_e − e_j‖ at every place: (B, D, h, w) → (B, h, w)."""
        batch, _, height, width = z_e.shape
        with torch.autocast(z_e.device.type, enabled=False):  # bfloat16 could change the nearest code
            # ‖z − e‖² = ‖z‖² − 2 z·e + ‖e‖². The first term does not depend on e, so it is left out.
            vectors = self.vectors
            distances = torch.addmm(vectors.square().sum(1), rows(z_e), vectors.T, alpha=-2)  # (B·h·w, K)
        return distances.argmin(1).view(batch, height, width)

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the vector e_k for each index k: (B, h, w) → (B, D, h, w)."""
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
    """Quantiser that measures the usage of each code, and restarts dead codes.

    In a subclass, `vectors` is a parameter or a buffer. The outputs of the first training batches are the initial
    vectors, unless the subclass sets initial vectors.
    """

    usage: Tensor  # (K,); 1 for each code if all codes are chosen equally often
    decay = DECAY

    def __init__(self, codes: int, dimensions: int, *, restarts: bool, gradient: Gradient) -> None:
        super().__init__(codes, dimensions, gradient=gradient)
        self.restarts = restarts
        self.register_buffer("usage", torch.full((codes,), UNBORN))

    def forward(self, z_e: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise z_e, (B, D, h, w). In training mode, restart dead codes before, and update the usage afterwards."""
        if self.training:
            self.restart(z_e, generator)
        quantized = super().forward(z_e, generator)
        if self.training:
            self.learn(z_e, quantized.indices)
        return quantized

    @torch.no_grad()
    def restart(self, z_e: Tensor, generator: torch.Generator) -> None:
        """Set the vector of each dead code to a random output, a different output for each code.

        If there are more dead codes than outputs, the remaining dead codes restart in a later batch.
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
        """Replace the vectors of some codes.

        Args:
            which: True for each code whose vector is replaced, (K, 1).
            vectors: new vectors, (K, D), one row for each code.
        """
        self.vectors.copy_(torch.where(which, vectors, self.vectors))

    @torch.no_grad()
    def learn(self, z_e: Tensor, indices: Tensor) -> None:  # noqa: ARG002
        """Update the usage of each code with the indices of a training batch."""
        self.usage.lerp_(process_group.mean(self.counts(indices) / self.uniform(indices)), 1 - self.decay)

    def uniform(self, indices: Tensor) -> float:
        """Return how often each code would occur in `indices` if all codes were chosen equally often."""
        return indices.numel() / self.codes


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Compute ‖x − y‖² of two tensors (B, D, h, w), summed over each image and averaged over the batch: ()."""
    return (x - y).square().sum((1, 2, 3)).mean()
