"""Base class of networks. A network makes the encoders and the decoders of the models.

The code of an image is a vector of d numbers, or a grid (h, w) of vectors with D numbers each. Encoders and decoders
return float32, even if they compute in bfloat16.

Dimensions: B batch, C image channels, (H, W) image size, P decoder outputs for each value of an image. A value is one
channel of one pixel.
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
        """Set the bias of the last layer, so that the untrained decoder returns about `output` for every pixel.

        With a bias near 0, all early training steps on dark images would push the bias in the same direction. At a high
        learning rate, the sigmoid would then saturate, and learning would stop.

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
        """Make an encoder that maps each image to a vector.

        Args:
            features: size of the vector.

        Returns:
            A module (B, C, H, W) → (B, features).
        """

    @abstractmethod
    def decoder(self, code: int, channels: int = 1) -> Decoder:
        """Make a decoder that maps each vector to the parameters of p(x|z).

        Args:
            code: size of the vector.
            channels: P, the number of outputs for each value of an image.

        Returns:
            A module (B, code) → (B, C·P, H, W).
        """

    @property
    def grid(self) -> Grid:
        """Height and width (h, w) of the grid of vectors.

        Raises:
            ValueError: the network has no grid.
        """
        msg = f"the network {type(self).__module__.rpartition('.')[2]} has no grid to put codes on"
        raise ValueError(msg)

    def grid_encoder(self, features: int) -> nn.Module:
        """Make an encoder that maps each image to a grid of vectors.

        Args:
            features: size of each vector.

        Returns:
            A module (B, C, H, W) → (B, features, h, w).
        """
        raise NotImplementedError

    def grid_decoder(self, features: int, channels: int = 1) -> Decoder:
        """Make a decoder that maps each grid of vectors to the parameters of p(x|z).

        Args:
            features: size of each vector.
            channels: P, the number of outputs for each value of an image.

        Returns:
            A module (B, features, h, w) → (B, C·P, H, W).
        """
        raise NotImplementedError


NETWORKS: Registry[Network] = Registry("aelab.networks", Network, "network")  # type: ignore[type-abstract]
NetworkSection: TypeAlias = Annotated[
    dict[str, Any], NETWORKS, Field(description="network of the encoder and the decoder")
]
