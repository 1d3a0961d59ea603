"""Sparse AE: an autoencoder with a penalty on each number of the code that is not zero.

    z = g_φ(x),  x′ = f_θ(z),  loss = 1/n · Σ (‖x_i − f_θ(z_i)‖² + λ·Σ_j |z_ij|/r_j),  r_j² = 1/n · Σ_i z_ij²

The L1 penalty comes from sparse coding (Olshausen & Field 1996). An encoder replaces its search for z. Sparse coding
bounds the decoder's gain, but here the gain is free. A code of a tenth of the size, with a steeper decoder, would have
a tenth of the L1 penalty without being sparser. Therefore each number counts in units of r_j, its root mean square over
the batch. Its penalty is least if the number is zero for most images and large for a few (Treves & Rolls 1991). The
scale of the code does not matter.
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
        """Compute the squared error plus λ times the code's size Σ_j |z_ij|/r_j."""
        z = self.encode(batch.inputs)
        losses = squared_error(batch.targets, self.decode(z))
        scale = gather(z).square().mean(0).clamp(min=torch.finfo(z.dtype).tiny).sqrt()
        size = (z / scale).abs().sum(1).mean()
        return losses | {"loss": losses["loss"] + self.penalty * size, "size": size}
