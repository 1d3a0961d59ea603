"""MLP: fully connected layers. An image enters the network as one vector.

With `hidden: [200, 200]` and `activation: tanh`, the MLP is the network of Burda et al. 2016, section 5. A VQ-VAE needs
a network whose codes are on a grid, so a VQ-VAE cannot use the MLP.

Dimensions: B batch, C image channels, (H, W) image size, d size of a code, P decoder outputs for each value of an
image. A value is one channel of one pixel.
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
    """Fully connected layers of the sizes `hidden` in the encoder, and of the reversed sizes in the decoder."""

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
        """Make an encoder, (B, C, H, W) → (B, features)."""
        return MLPEncoder([math.prod(self.image), *self.hidden, features], self.activation)

    def decoder(self, code: int, channels: int = 1) -> Decoder:
        """Make a decoder, (B, code) → (B, C·P, H, W)."""
        return MLPDecoder(code, self.hidden[::-1], (self.image[0] * channels, *self.image[1:]), self.activation)


class MLPEncoder(nn.Module):
    """Encoder that maps each image to a vector. `sizes` has the size of the image, of each layer, and of the vector."""

    def __init__(self, sizes: Sequence[int], activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = perceptron(sizes, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) → (B, features)."""
        return self.layers(x.flatten(1)).float()


class MLPDecoder(Decoder):
    """Decoder that maps each vector to the parameters of p(x|z)."""

    def __init__(self, code: int, hidden: Sequence[int], output: Shape, activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = perceptron([code, *hidden, math.prod(output)], activation)
        self.output = output

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, d) → (B, C·P, H, W)."""
        return self.layers(z).unflatten(1, self.output).float()

    def start_at(self, output: Tensor) -> None:
        """Set the bias of the last layer to `output` at every pixel."""
        set_bias(self.layers[-1], output.repeat_interleave(self.output[1] * self.output[2]))
