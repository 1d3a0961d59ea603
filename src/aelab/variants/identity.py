"""Identity: the code is the image, pixel by pixel. What has to be beaten by a code, and by a cure for noise.

    z = x,  x′ = z

Its probe and its neighbours are those of raw pixels; its error under noise is what the noise itself has done.
"""

import torch
from torch import Tensor, nn

from aelab.models.base import Shape
from aelab.variants._floor import Floor


class Identity(Floor):
    """A floor: raw pixels as the code, and nothing done to the image."""

    undefined = {
        **Floor.undefined,
        "reconstruction": "the model gives back what it is given",
        "direction": "a number of the code is a pixel",
    }

    def __init__(self, image: Shape) -> None:
        super().__init__(image)
        self.nothing = nn.Parameter(torch.empty(0))  # says which device the model is on

    def encode(self, x: Tensor) -> Tensor:
        """The pixels in a row, shape (B, C·H·W)."""
        return x.flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """The image of these pixels, shape (B, C, H, W)."""
        return z.unflatten(1, self.image).clamp(0, 1)
