"""The convolutional networks that the variants share, so that a comparison compares the variants.

All work on a grid of 4×4-pixel patches: an image is taken apart into patches at the first layer and put together again
after the last one, which spends the arithmetic where it pays, at low resolution.

Dimensions: B batch, C image channels, (H, W) image size, (h, w) = (H/4, W/4) grid, F feature maps, d size of a code.
Outputs are float32 whatever the precision of the arithmetic inside.
"""

from typing import Annotated, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoders.base import Shape

Grid: TypeAlias = tuple[int, int]
Width: TypeAlias = Annotated[int, Field(ge=2)]  # feature maps F; residual blocks halve them

PATCH = 4  # pixels, along each side


def grid_of(image: Shape) -> Grid:
    """The size (h, w) of the grid of patches of an image.

    Raises:
        ValueError: the image's sides are not multiples of a patch's.
    """
    _, height, width = image
    if height % PATCH or width % PATCH:
        msg = f"both sides must be multiples of {PATCH}"
        raise ValueError(msg)
    return height // PATCH, width // PATCH


class Pointwise(nn.Linear):
    """A 1×1 convolution, (B, F, h, w) → (B, G, h, w), as the matrix product that it is: on channels last a view."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, h, w) → (B, G, h, w)."""
        return _channels_last(super().forward(x.permute(0, 2, 3, 1)))


class Convolution(nn.Conv2d):
    """A 3×3 convolution that keeps the size of the grid: (B, F, h, w) → (B, G, h, w)."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__(features, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, h, w) → (B, G, h, w)."""
        _, _, height, width = x.shape
        if max(height, width) > 2:  # noqa: PLR2004
            return super().forward(x)
        # Every place of so small a grid sees all others, so this is one matrix product: several times as fast as what
        # libraries do, who are made for large grids. A place further down or to the right sees the kernel shifted.
        kernel = self.weight.permute(0, 2, 3, 1)  # (G, 3, 3, F), as channels last lays it out
        seen = [
            kernel[:, 1 - row : 1 - row + height, 1 - column : 1 - column + width]
            for row in range(height)
            for column in range(width)
        ]
        matrix = torch.stack(seen).flatten(2).flatten(0, 1)  # (h·w·G, h·w·F)
        bias = None if self.bias is None else self.bias.repeat(height * width)
        product = F.linear(x.permute(0, 2, 3, 1).flatten(1), matrix, bias)
        return _channels_last(product.unflatten(1, (height, width, -1)))


class Residual(nn.Module):
    """x + f(x) with a 3×3 and a 1×1 convolution, as in van den Oord et al. 2017, section 4.1: (B, F, h, w) both."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), Convolution(width, hidden), nn.ReLU(), Pointwise(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """X + f(x)."""
        return x + self.layers(x)


class Patches(nn.Module):
    """The 4×4 patches of images, as `nn.PixelUnshuffle`, but laid out in memory as the convolutions want it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 16·C, h, w), channels last."""
        rows = x.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))  # (B, C, h, 4, w, 4)
        return _channels_last(rows.permute(0, 2, 4, 1, 3, 5).flatten(3))


class Output(nn.Module):
    """Feature maps (B, F, h, w) to the logits of images (B, C, H, W)."""

    def __init__(self, image: Shape, width: int) -> None:
        super().__init__()
        self.convolution = Convolution(width, image[0] * PATCH**2)
        self.shuffle = nn.PixelShuffle(PATCH)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, h, w) → (B, C, H, W)."""
        return self.shuffle(self.convolution(x))

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Make the mean colour of images x (B, C, H, W) what an untrained network gives back.

        Otherwise the first steps all push mostly dark images the same way, at a high learning rate so far that the
        sigmoid saturates and nothing is learned any more.
        """
        mean = x.mean((0, 2, 3)).clamp(0.01, 0.99)  # (C,)
        self.convolution.bias = nn.Parameter(mean.logit().repeat_interleave(PATCH**2))


class Encoder(nn.Module):
    """Images (B, C, H, W) to `features` numbers each (B, features)."""

    def __init__(self, image: Shape, width: int, features: int) -> None:
        super().__init__()
        height, breadth = grid_of(image)
        self.layers = nn.Sequential(
            Patches(),  # (B, 16·C, h, w)
            Convolution(image[0] * PATCH**2, width),
            nn.ReLU(),
        )
        self.head = nn.Linear(height * breadth * width, features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, features)."""
        return self.head(self.layers(x).permute(0, 2, 3, 1).flatten(1)).float()  # channels last: flattened in place


class Decoder(nn.Module):
    """Codes (B, d) to the logits of images (B, C, H, W)."""

    def __init__(self, image: Shape, width: int, code: int) -> None:
        super().__init__()
        height, breadth = grid_of(image)
        self.code = code
        self.grid = height, breadth, width
        self.stem = nn.Linear(code, height * breadth * width)
        self.layers = nn.Sequential(
            *(Residual(width, width // 2) for _ in range(2)),
            nn.ReLU(),
        )
        self.output = Output(image, width)

    def forward(self, z: Tensor) -> Tensor:
        """(B, d) → (B, C, H, W)."""
        return self.output(self.layers(_channels_last(self.stem(z).unflatten(1, self.grid)))).float()


class GridEncoder(nn.Module):
    """Images (B, C, H, W) to one vector per patch (B, d, h, w).

    A vector sees its patch and the patches around it, and knows where it is: with so local a view, what a code says
    is about its place alone, which makes the codes easier to predict from each other than a wide view would.
    """

    def __init__(self, image: Shape, width: int, features: int) -> None:
        super().__init__()
        self.patches = nn.Sequential(
            Patches(),  # (B, 16·C, h, w)
            Convolution(image[0] * PATCH**2, 2 * width),
        )
        self.position = nn.Parameter(0.3 * torch.randn(2 * width, *grid_of(image)))
        self.layers = nn.Sequential(nn.ReLU(), Pointwise(2 * width, width), nn.ReLU(), Pointwise(width, features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, d, h, w)."""
        return self.layers(self.patches(x) + self.position).float()


class GridDecoder(nn.Module):
    """One vector per patch (B, d, h, w) to the logits of images (B, C, H, W)."""

    def __init__(self, image: Shape, width: int, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Convolution(features, width),
            *(Residual(width, width // 2) for _ in range(2)),
            nn.ReLU(),
        )
        self.output = Output(image, width)

    def forward(self, z: Tensor) -> Tensor:
        """(B, d, h, w) → (B, C, H, W)."""
        return self.output(self.layers(z)).float()


def _channels_last(x: Tensor) -> Tensor:
    """(B, h, w, F) → (B, F, h, w), the same memory seen another way."""
    return x.permute(0, 3, 1, 2)
