"""Layers that the networks share. The layers return feature maps in torch's memory format `channels_last`.

Dimensions: B batch, C image channels, (H, W) image size, p pixels along each side of a patch, (h, w) size of feature
maps. F feature maps enter a layer, and G feature maps leave the layer.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

# The minimum is 2, because a residual block has half as many feature maps inside.
Width: TypeAlias = Annotated[int, Field(ge=2, description="number of feature maps")]
Activation: TypeAlias = Annotated[
    Literal["relu", "tanh", "elu", "gelu"], Field(description="activation function after each layer")
]
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "gelu": nn.GELU}
LARGEST = 8  # feature maps with a larger height or width are halved before a fully connected layer


class Pointwise(nn.Linear):
    """A 1×1 convolution, (B, F, h, w) → (B, G, h, w), computed as a matrix product.

    The product needs no copy of the feature maps if their memory format is `channels_last`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, h, w) → (B, G, h, w)."""
        return channels_last(super().forward(x.permute(0, 2, 3, 1)))


class Convolution(nn.Conv2d):
    """A 3×3 convolution that keeps the size of the feature maps, (B, F, h, w) → (B, G, h, w)."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__(features, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, h, w) → (B, G, h, w)."""
        _, _, height, width = x.shape
        if max(height, width) > 2:  # noqa: PLR2004
            return super().forward(x)
        # In feature maps of at most 2×2 places, each output depends on all places, so the convolution is one matrix
        # product. The product is several times faster than torch's convolution, which is made for larger maps.
        kernel = self.weight.permute(0, 2, 3, 1)  # (G, 3, 3, F), in the order of the numbers in memory
        seen = [
            kernel[:, 1 - row : 1 - row + height, 1 - column : 1 - column + width]
            for row in range(height)
            for column in range(width)
        ]
        matrix = torch.stack(seen).flatten(2).flatten(0, 1)  # (h·w·G, h·w·F)
        bias = None if self.bias is None else self.bias.repeat(height * width)
        product = F.linear(x.permute(0, 2, 3, 1).flatten(1), matrix, bias)
        return channels_last(product.unflatten(1, (height, width, -1)))


class Residual(nn.Module):
    """Residual block x + f(x), where f is a 3×3, then a 1×1 convolution (van den Oord et al. 2017, section 4.1)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), Convolution(width, hidden), nn.ReLU(), Pointwise(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return x + f(x), (B, F, h, w)."""
        return x + self.layers(x)


class Patches(nn.Module):
    """Splits images into p×p patches, like `nn.PixelUnshuffle`, but into the memory format `channels_last`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) → (B, p²·C, h, w)."""
        patches = x.unflatten(3, (-1, self.size)).unflatten(2, (-1, self.size))  # (B, C, h, p, w, p)
        return channels_last(patches.permute(0, 2, 4, 1, 3, 5).flatten(3))


def channels_last(x: Tensor) -> Tensor:
    """Return a view of `x` with the channels as second dimension, (B, h, w, F) → (B, F, h, w), without a copy."""
    return x.permute(0, 3, 1, 2)


def perceptron(sizes: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Make fully connected layers with an activation after all but the last, (…, `sizes[0]`) → (…, `sizes[-1]`)."""
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*(layer for pair in pairs for layer in (nn.Linear(*pair), activation())))[:-1]


def halvings(grid: tuple[int, int]) -> int:
    """Return how many times `grid`, (h, w), is halved, until both sides are at most `LARGEST` or one side is odd."""
    count = 0
    while max(grid) > LARGEST and not any(side % 2 for side in grid):
        grid = grid[0] // 2, grid[1] // 2
        count += 1
    return count


def set_bias(layer: nn.Module, bias: Tensor) -> None:
    """Replace the bias of a layer."""
    layer.bias = nn.Parameter(bias.clone())


def mean_colour(x: Tensor) -> Tensor:
    """Return the mean of each channel over images x, (B, C, H, W) → (C,), clamped to 0.01 … 0.99."""
    return x.mean((0, 2, 3)).clamp(0.01, 0.99)
