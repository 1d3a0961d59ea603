"""Sparse AE: an autoencoder with a penalty on every nonzero number of the code.

    z = g_φ(x),  x′ = f_θ(z),  loss = 1/n · Σ (‖x_i − f_θ(z_i)‖² + λ·Σ_j |z_ij|/r_j),  r_j² = 1/n · Σ_i z_ij²

The L1 penalty comes from sparse coding (Olshausen & Field 1996). Sparse coding finds each z by a search. Here, an
encoder computes z. Sparse coding also limits the decoder's weights, but here they have no limit. With a plain L1
penalty, the model could therefore divide the code by 10 and multiply the decoder's weights by 10. The penalty would
fall to a tenth, although the code would not be sparser. Therefore the penalty divides z_ij, number j of the code of
image i, by r_j, the root mean square of number j over the batch. So the penalty is independent of the code's scale. The
penalty is least if number j is zero for most images and large for a few (Treves & Rolls 1991).
"""

import torch
from pydantic import NonNegativeFloat

from aelab.core.process_group import gather
from aelab.models.base import Batch, CodeSize, Losses, Shape
from aelab.models.network import NetworkSection
from aelab.variants._deterministic import Deterministic, squared_error


class SparseAE(Deterministic):
    """An autoencoder whose code has few numbers far from zero; `penalty` is the weight λ of the L1 penalty."""

    def __init__(self, image: Shape, *, network: NetworkSection, code: CodeSize, penalty: NonNegativeFloat) -> None:
        super().__init__(image, network=network, code=code)
        self.penalty = penalty

    def loss(self, batch: Batch) -> Losses:
        """Compute the squared error plus λ·"size", where "size" is the mean of Σ_j |z_ij|/r_j over the batch."""
        z = self.encode(batch.inputs)
        losses = squared_error(batch.targets, self.decode(z))
        scale = gather(z).square().mean(0).clamp(min=torch.finfo(z.dtype).tiny).sqrt()
        size = (z / scale).abs().sum(1).mean()
        return losses | {"loss": losses["loss"] + self.penalty * size, "size": size}
