"""Base class of networks, which make the encoders and decoders of the variants.

Dimensions: B batch, C image channels, (H, W) image size, d size of a code, (h, w) latent grid, P decoder outputs
for each value of an image. Encoders and decoders return float32, even if they compute in bfloat16.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any, TypeAlias

from pydantic import Field
from torch import Tensor, nn

from aelab.core.registry import Registry
from aelab.models.base import Shape

Grid: TypeAlias = tuple[int, int]


class Decoder(nn.Module, ABC):
    """A module that maps codes to the parameters of p(x|z), (B, d) or (B, D, h, w) → (B, C·P, H, W)."""

    @abstractmethod
    def start_at(self, output: Tensor) -> None:
        """Set the last layer's bias so that the untrained decoder returns about `output` for every pixel.

        Without this bias, the first training steps on mostly dark images all push the bias in the same direction. At a
        high learning rate the sigmoid then saturates, and learning stops.

        Args:
            output: the decoder's output at one pixel, (C·P,).
        """


class Network(ABC):
    """Factory of encoders and decoders for images of one shape. Each encoder and each decoder has its own weights.

    The keyword arguments of the constructor are the network's keys in `params.yaml`.

    Args:
        image: (C, H, W) of the images.
    """

    def __init__(self, image: Shape) -> None:
        self.image = image

    @abstractmethod
    def encoder(self, features: int) -> nn.Module:
        """Make an encoder of images into vectors.

        Args:
            features: numbers in each vector.

        Returns:
            A module (B, C, H, W) → (B, features).
        """

    @abstractmethod
    def decoder(self, code: int, channels: int = 1) -> Decoder:
        """Make a decoder of vectors.

        Args:
            code: numbers in each vector.
            channels: P, the number of outputs for each value of an image.

        Returns:
            A module (B, code) → (B, C·P, H, W).
        """

    @property
    def grid(self) -> Grid:
        """Height and width (h, w) of the latent grid.

        Raises:
            ValueError: the network has no grid.
        """
        msg = f"the network {type(self).__module__.rpartition('.')[2]} has no grid to put codes on"
        raise ValueError(msg)

    def grid_encoder(self, features: int) -> nn.Module:
        """Make an encoder of images into grids of vectors.

        Args:
            features: numbers in each vector.

        Returns:
            A module (B, C, H, W) → (B, features, h, w).
        """
        raise NotImplementedError

    def grid_decoder(self, features: int, channels: int = 1) -> Decoder:
        """Make a decoder of grids of vectors.

        Args:
            features: numbers in each vector.
            channels: P, the number of outputs for each value of an image.

        Returns:
            A module (B, features, h, w) → (B, C·P, H, W).
        """
        raise NotImplementedError


NETWORKS: Registry[Network] = Registry("aelab.networks", Network, "network")  # type: ignore[type-abstract]
NetworkSection: TypeAlias = Annotated[
    dict[str, Any], NETWORKS, Field(description="network of the encoder and the decoder")
]
