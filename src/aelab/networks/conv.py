"""Conv: strided convolutions and residual blocks, the network of van den Oord et al. 2017, section 4.1.

Convolutions with windows of 4×4 and stride 2 down to the grid, residual blocks there, transposed convolutions back.
A vector's encoder goes on halving large grids, then has a fully connected layer.
"""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from aelab.models.base import Shape
from aelab.models.layers import Convolution, Pointwise, Residual, channels_last, halvings, set_bias
from aelab.models.network import Decoder, Grid, Network


class ConvNetwork(Network):
    """`width` feature maps, `residual` blocks with `hidden` maps inside, one place for every `downsampling`² pixels."""

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
        """(H, W) / downsampling."""
        return self.image[1] // self.downsampling, self.image[2] // self.downsampling

    def encoder(self, features: int) -> nn.Module:
        """(B, C, H, W) → (B, features)."""
        return VectorEncoder(self, features)

    def decoder(self, code: int, channels: int = 1) -> Decoder:
        """(B, code) → (B, C·P, H, W)."""
        return ConvDecoder(self, channels, VectorStem(self, code))

    def grid_encoder(self, features: int) -> nn.Module:
        """(B, C, H, W) → (B, features, h, w)."""
        return nn.Sequential(self.down(), Pointwise(self.width, features), Float())

    def grid_decoder(self, features: int, channels: int = 1) -> Decoder:
        """(B, features, h, w) → (B, C·P, H, W)."""
        return ConvDecoder(self, channels, Convolution(features, self.width))

    def down(self) -> nn.Sequential:
        """Images to feature maps on the grid."""
        halved = self.downsampling.bit_length() - 1
        inputs = [self.image[0], *[self.width] * (halved - 1)]
        return nn.Sequential(
            *(layer for features in inputs for layer in (_halve(features, self.width), nn.ReLU())),
            Convolution(self.width, self.width),
            *self.blocks(),
        )

    def blocks(self) -> list[nn.Module]:
        """The residual blocks, and what ends them."""
        return [*(Residual(self.width, self.hidden) for _ in range(self.residual)), nn.ReLU()]


class VectorEncoder(nn.Module):
    """Images (B, C, H, W) to `features` numbers each (B, features)."""

    def __init__(self, network: ConvNetwork, features: int) -> None:
        super().__init__()
        times, width = halvings(network.grid), network.width
        self.layers = nn.Sequential(
            network.down(), *(layer for _ in range(times) for layer in (_halve(width, width), nn.ReLU()))
        )
        self.head = nn.Linear(network.grid[0] * network.grid[1] // 4**times * width, features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, features)."""
        return self.head(self.layers(x).permute(0, 2, 3, 1).flatten(1)).float()


class VectorStem(nn.Module):
    """Codes (B, d) to feature maps on the grid (B, F, h, w)."""

    def __init__(self, network: ConvNetwork, code: int) -> None:
        super().__init__()
        times, width = halvings(network.grid), network.width
        height, breadth = (side // 2**times for side in network.grid)
        self.grid = height, breadth, width
        self.linear = nn.Linear(code, height * breadth * width)
        self.layers = nn.Sequential(*(layer for _ in range(times) for layer in (nn.ReLU(), _double(width, width))))

    def forward(self, z: Tensor) -> Tensor:
        """(B, d) → (B, F, h, w)."""
        return self.layers(channels_last(self.linear(z).unflatten(1, self.grid)))


class ConvDecoder(Decoder):
    """A stem that gives feature maps on the grid, then the way back to the parameters of pixels (B, C·P, H, W)."""

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
        """(B, d) or (B, D, h, w) → (B, C·P, H, W)."""
        return self.output(self.layers(self.stem(z))).float()

    def start_at(self, output: Tensor) -> None:
        """Give the last layer that bias."""
        set_bias(self.output, output)


class Float(nn.Module):
    """To float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x.float()


def _halve(features: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(features, outputs, 4, stride=2, padding=1)


def _double(features: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(features, outputs, 4, stride=2, padding=1)
