"""Contractive AE: an autoencoder whose code changes little under small changes of the input.

    z = g_φ(x),  x′ = f_θ(z),  loss = 1/n · Σ (‖x_i − f_θ(z_i)‖² + λ·‖J_g(x_i)‖²_F),  J_g = ∂g_φ/∂x

Rifai et al. 2011, equation 5. For a deep encoder, ‖J‖²_F has no closed form. The whole Jacobian J needs one backward
pass for each number of the code: with 32 numbers, a training step takes nine times as long as without the penalty.
Therefore the loss uses an unbiased estimate of ‖J‖²_F along a random direction v of the code (Hutchinson 1990):

    ‖J‖²_F = tr JJᵀ = E‖vᵀJ‖²  with  E[vvᵀ] = I

Here v ∈ {−1, 1}ᵈ has random signs, which give the estimate the least variance.

The paper ties the decoder's weights to the encoder's weights, so the model cannot scale its code down without losing
accuracy. Here the decoder has its own weights. The model can therefore avoid a part of the penalty with a code of
smaller numbers and a steeper decoder.
"""

from functools import partial

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from aelab.core import process_group
from aelab.models.base import Batch, CodeSize, Losses, Shape
from aelab.models.network import NetworkSection
from aelab.variants._deterministic import Deterministic, squared_error


class ContractiveAE(Deterministic):
    """An autoencoder with a penalty on the slope of its encoder; `penalty` is the weight λ of this penalty."""

    def __init__(self, image: Shape, *, network: NetworkSection, code: CodeSize, penalty: NonNegativeFloat) -> None:
        super().__init__(image, network=network, code=code)
        self.penalty = penalty

    def loss(self, batch: Batch) -> Losses:
        """Compute the squared error plus λ times the estimated squared slope ‖J‖²_F."""
        with torch.enable_grad():  # also in validation, because the slope is a gradient
            x = batch.inputs.detach().requires_grad_()
            z = self.encode(x)
            slope = squared_slope(z, x, batch.generator).mean()
        losses = squared_error(batch.targets, self.decode(z))
        return losses | {"loss": losses["loss"] + self.penalty * slope, "slope": slope}


def squared_slope(z: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    """Estimate ‖∂z/∂x‖²_F as ‖vᵀJ‖² with one random v for each image: z (B, d), x (B, C, H, W) → (B,).

    The result has a gradient.
    """
    v = process_group.draw(partial(torch.randint, 2), z.shape, generator).to(z.dtype) * 2 - 1
    (product,) = torch.autograd.grad(z, x, v, create_graph=True)
    return product.square().flatten(1).sum(1)
