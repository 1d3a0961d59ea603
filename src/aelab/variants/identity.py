"""Identity: the code is the image itself. Every code and every denoising model should beat this floor.

    z = x,  x′ = z

A floor is a baseline without training. For this floor, the linear probe and the nearest neighbours classify raw pixels,
and the denoising error is the squared error of the noisy image.
"""

import torch
from torch import Tensor, nn

from aelab.models.base import Shape
from aelab.variants._floor import Floor


class Identity(Floor):
    """A floor: the code is the raw pixels, and the model returns its input."""

    undefined = {
        **Floor.undefined,
        "reconstruction": "the model returns its input",
        "direction": "a number of the code is a pixel",
    }

    def __init__(self, image: Shape) -> None:
        super().__init__(image)
        self.nothing = nn.Parameter(torch.empty(0))  # `device_of` reads the model's device from this parameter

    def encode(self, x: Tensor) -> Tensor:
        """Return the pixels as a vector, (B, C·H·W)."""
        return x.flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """Return the pixels as images, clamped to [0, 1], (B, C, H, W)."""
        return z.unflatten(1, self.image).clamp(0, 1)
