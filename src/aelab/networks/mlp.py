"""MLP: fully connected layers; hidden: [200, 200] with tanh is the network of Burda et al. 2016, section 5.

It sees an image as one vector, so it has no grid and a VQ-VAE cannot be built from it.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from aelab.models.base import Shape
from aelab.models.layers import ACTIVATIONS, Activation, perceptron, set_bias
from aelab.models.network import Decoder, Network


class MLP(Network):
    """Layers of the sizes `hidden`, from the image to the code; the decoder has them the other way round."""

    def __init__(
        self,
        image: Shape,
        *,
        hidden: Annotated[list[PositiveInt], Field(min_length=1)],
        activation: Activation = "relu",
    ) -> None:
        super().__init__(image)
        self.hidden, self.activation = hidden, ACTIVATIONS[activation]

    def encoder(self, features: int) -> nn.Module:
        """(B, C, H, W) → (B, features)."""
        return MLPEncoder([math.prod(self.image), *self.hidden, features], self.activation)

    def decoder(self, code: int, channels: int = 1) -> Decoder:
        """(B, code) → (B, C·P, H, W)."""
        return MLPDecoder(code, self.hidden[::-1], (self.image[0] * channels, *self.image[1:]), self.activation)


class MLPEncoder(nn.Module):
    """Images to vectors through layers of the given sizes."""

    def __init__(self, sizes: Sequence[int], activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = perceptron(sizes, activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, features)."""
        return self.layers(x.flatten(1)).float()


class MLPDecoder(Decoder):
    """Codes to the parameters of pixels."""

    def __init__(self, code: int, hidden: Sequence[int], output: Shape, activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = perceptron([code, *hidden, math.prod(output)], activation)
        self.output = output

    def forward(self, z: Tensor) -> Tensor:
        """(B, d) → (B, C·P, H, W)."""
        return self.layers(z).unflatten(1, self.output).float()

    def start_at(self, output: Tensor) -> None:
        """Give the last layer that bias."""
        set_bias(self.layers[-1], output.repeat_interleave(self.output[1] * self.output[2]))
