"""AE: an encoder and a decoder that learn to copy their input through a narrow code.

    z = g_φ(x),  x′ = f_θ(z),  loss = 1/n · Σ ‖x_i − f_θ(g_φ(x_i))‖²

Hinton & Salakhutdinov 2006. Only the size of the code keeps the model from learning the identity.
"""

from aelab.models.base import Batch, Losses
from aelab.variants._deterministic import Deterministic, squared_error


class AE(Deterministic):
    """A plain autoencoder."""

    inputs = "clean"

    def loss(self, batch: Batch) -> Losses:
        """Compute the squared error; the batch's inputs and targets are the same images."""
        return squared_error(batch.targets, self.reconstruct(batch.inputs))
