"""AE: an encoder and a decoder that learn to copy their input through a narrow code.

    z = g_φ(x),  x′ = f_θ(z),  loss = 1/n · Σ ‖x_i − f_θ(g_φ(x_i))‖²

Hinton & Salakhutdinov 2006. Nothing but the size of the code keeps it from learning the identity.
"""

import torch
from torch import Tensor

from autoencoders.base import Losses
from autoencoders.modules.deterministic import Deterministic, squared_error


class AE(Deterministic):
    """A plain autoencoder."""

    inputs = "clean"

    def loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Losses:  # noqa: ARG002
        """The squared error of the copies; `inputs` and `targets` are the same images."""
        return squared_error(targets, self.reconstruct(inputs))
