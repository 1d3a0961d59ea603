"""DAE: an autoencoder that sees a corrupted image and is compared only with the uncorrupted one.

    x̃ ~ C(x̃|x),  z = g_φ(x̃),  x′ = f_θ(z),  loss = 1/n · Σ ‖x_i − f_θ(g_φ(x̃_i))‖²

Vincent et al. 2008. The stage `corrupt` applies the corruption C before training; `inputs: corrupted` in
`params.yaml` makes its copies what this variant sees. Copying the input is no solution any more.
"""

import torch
from torch import Tensor

from autoencoders.base import Losses
from autoencoders.modules.deterministic import Deterministic, squared_error


class DAE(Deterministic):
    """A denoising autoencoder."""

    inputs = "corrupted"

    def loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Losses:  # noqa: ARG002
        """The squared error between the output for x̃ (`inputs`) and x (`targets`)."""
        return squared_error(targets, self.reconstruct(inputs))
