"""Sparse AE: an autoencoder that pays for each number in its code.

    z = g_φ(x),  x′ = f_θ(z),  loss = 1/n · Σ (‖x_i − f_θ(z_i)‖² + λ·‖z_i‖₁)

The penalty of sparse coding (Olshausen & Field 1996), with an encoder in place of its search for z. There the
decoder's gain is bounded; nothing bounds it here, and a smaller code read by a steeper decoder pays less.
"""

from pydantic import NonNegativeFloat, PositiveInt

from autoencoders.base import Batch, Losses, Shape
from autoencoders.modules.deterministic import Deterministic, squared_error
from autoencoders.networks import NetworkSection


class SparseAE(Deterministic):
    """An autoencoder whose code has few numbers far from zero; `penalty` is λ."""

    def __init__(self, image: Shape, *, network: NetworkSection, code: PositiveInt, penalty: NonNegativeFloat) -> None:
        super().__init__(image, network=network, code=code)
        self.penalty = penalty

    def loss(self, batch: Batch) -> Losses:
        """The squared error plus λ times the code's size ‖z‖₁."""
        z = self.encode(batch.inputs)
        losses = squared_error(batch.targets, self.decode(z))
        size = z.abs().sum(1).mean()
        return losses | {"loss": losses["loss"] + self.penalty * size, "size": size}
