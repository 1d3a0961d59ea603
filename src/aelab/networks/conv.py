"""Conv: strided convolutions and residual blocks, the network of van den Oord et al. 2017, section 4.1.

In the encoder, 4×4 convolutions with stride 2 shrink the image to a grid (h, w). Residual blocks follow. The decoder
has residual blocks, then transposed convolutions, which enlarge the grid to the image. If the code is a vector, further
convolutions halve a large grid before the encoder's fully connected layer.

Dimensions: B batch, C image channels, (H, W) image size, (h, w) grid, F feature maps (the argument `width`), P decoder
outputs for each value of an image. A value is one channel of one pixel.
"""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from aelab.models.base import Shape
from aelab.models.layers import Convolution, Pointwise, Residual, channels_last, halvings, set_bias
from aelab.models.network import Decoder, Grid, Network


class ConvNetwork(Network):
    """Strided convolutions with `width` feature maps. Each place of the grid covers `downsampling`² pixels.

    The encoder and the decoder each have `residual` residual blocks, with `hidden` feature maps inside.
    """

    def __init__(
        self,
        image: Shape,
        *,
        width: PositiveInt,
        downsampling: Annotated[int, Field(ge=2)] = 4,
        residual: NonNegativeInt = 2,
        hidden: PositiveInt = 32,
    ) -> None:
        super().__init__(image)
        if downsampling & (downsampling - 1):
            msg = f"downsampling, {downsampling}, must be a power of 2"
            raise ValueError(msg)
        if image[1] % downsampling or image[2] % downsampling:
            msg = f"both sides must be multiples of downsampling, {downsampling}"
            raise ValueError(msg)
        self.width, self.downsampling, self.residual, self.hidden = width, downsampling, residual, hidden

    @property
    def grid(self) -> Grid:
        """Height and width of the grid: (h, w) = (H, W) / `downsampling`."""
        return self.image[1] // self.downsampling, self.image[2] // self.downsampling

    def encoder(self, features: int) -> nn.Module:
        """Make an encoder, (B, C, H, W) → (B, features)."""
        return VectorEncoder(self, features)

    def decoder(self, code: int, channels: int = 1) -> Decoder:
        """Make a decoder, (B, code) → (B, C·P, H, W)."""
        return ConvDecoder(self, channels, VectorStem(self, code))

    def grid_encoder(self, features: int) -> nn.Module:
        """Make an encoder, (B, C, H, W) → (B, features, h, w)."""
        return nn.Sequential(self.down(), Pointwise(self.width, features), Float())

    def grid_decoder(self, features: int, channels: int = 1) -> Decoder:
        """Make a decoder, (B, features, h, w) → (B, C·P, H, W)."""
        return ConvDecoder(self, channels, Convolution(features, self.width))

    def down(self) -> nn.Sequential:
        """Make the encoder's layers that map images (B, C, H, W) to feature maps on the grid, (B, F, h, w)."""
        halved = self.downsampling.bit_length() - 1
        inputs = [self.image[0], *[self.width] * (halved - 1)]
        return nn.Sequential(
            *(layer for features in inputs for layer in (_halve(features, self.width), nn.ReLU())),
            Convolution(self.width, self.width),
            *self.blocks(),
        )

    def blocks(self) -> list[nn.Module]:
        """Make the residual blocks, and one ReLU after the last block."""
        return [*(Residual(self.width, self.hidden) for _ in range(self.residual)), nn.ReLU()]


class VectorEncoder(nn.Module):
    """Encoder that maps each image to a vector."""

    def __init__(self, network: ConvNetwork, features: int) -> None:
        super().__init__()
        times, width = halvings(network.grid), network.width
        self.layers = nn.Sequential(
            network.down(), *(layer for _ in range(times) for layer in (_halve(width, width), nn.ReLU()))
        )
        self.head = nn.Linear(network.grid[0] * network.grid[1] // 4**times * width, features)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) → (B, features)."""
        return self.head(self.layers(x).permute(0, 2, 3, 1).flatten(1)).float()


class VectorStem(nn.Module):
    """First layers of a decoder of vectors. The layers map each vector to feature maps on the grid."""

    def __init__(self, network: ConvNetwork, code: int) -> None:
        super().__init__()
        times, width = halvings(network.grid), network.width
        height, breadth = (side // 2**times for side in network.grid)
        self.grid = height, breadth, width
        self.linear = nn.Linear(code, height * breadth * width)
        self.layers = nn.Sequential(*(layer for _ in range(times) for layer in (nn.ReLU(), _double(width, width))))

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, d) → (B, F, h, w)."""
        return self.layers(channels_last(self.linear(z).unflatten(1, self.grid)))


class ConvDecoder(Decoder):
    """Decoder. `stem` maps codes to feature maps on the grid, and further layers map the feature maps to the output."""

    def __init__(self, network: ConvNetwork, channels: int, stem: nn.Module) -> None:
        super().__init__()
        doubled = network.downsampling.bit_length() - 1
        width = network.width
        self.stem = stem
        self.layers = nn.Sequential(
            *network.blocks(),
            *(layer for _ in range(doubled - 1) for layer in (_double(width, width), nn.ReLU())),
        )
        self.output = _double(width, network.image[0] * channels)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, d) or (B, D, h, w) → (B, C·P, H, W)."""
        return self.output(self.layers(self.stem(z))).float()

    def start_at(self, output: Tensor) -> None:
        """Set the bias of the last layer to `output`."""
        set_bias(self.output, output)


class Float(nn.Module):
    """Conversion to float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` as float32."""
        return x.float()


def _halve(features: int, outputs: int) -> nn.Conv2d:
    """Make a convolution that halves the height and width of feature maps."""
    return nn.Conv2d(features, outputs, 4, stride=2, padding=1)


def _double(features: int, outputs: int) -> nn.ConvTranspose2d:
    """Make a transposed convolution that doubles the height and width of feature maps."""
    return nn.ConvTranspose2d(features, outputs, 4, stride=2, padding=1)
