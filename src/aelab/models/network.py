"""What a network has to give: the encoders and decoders that variants are built from.

Dimensions: B batch, C image channels, (H, W) image size, d size of a code, (h, w) latent grid, P outputs of a decoder
for each image dimension. Outputs are float32 whatever the precision of the arithmetic inside.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any, TypeAlias

from pydantic import Field
from torch import Tensor, nn

from aelab.core.registry import Registry
from aelab.models.base import Shape

Grid: TypeAlias = tuple[int, int]


class Decoder(nn.Module, ABC):
    """Codes to the parameters of images' pixels."""

    @abstractmethod
    def start_at(self, output: Tensor) -> None:
        """Make `output`, shape (C·P,), what the untrained decoder gives for every pixel.

        Without it, on mostly dark images, the first steps all push the output's bias the same way; at a high learning
        rate the sigmoid then saturates and learning stops.
        """


class Network(ABC):
    """Makes encoders and decoders for images of one shape, each with weights of its own.

    The keyword arguments of its constructor are its keys in `params.yaml`.
    """

    def __init__(self, image: Shape) -> None:
        self.image = image

    @abstractmethod
    def encoder(self, features: int) -> nn.Module:
        """Images to `features` numbers each: (B, C, H, W) → (B, features)."""

    @abstractmethod
    def decoder(self, code: int, channels: int = 1) -> Decoder:
        """Codes to images, P = `channels`: (B, code) → (B, C·P, H, W)."""

    @property
    def grid(self) -> Grid:
        """(h, w) of the latent grid.

        Raises:
            ValueError: the network has none.
        """
        msg = f"the network {type(self).__module__.rpartition('.')[2]} has no grid to put codes on"
        raise ValueError(msg)

    def grid_encoder(self, features: int) -> nn.Module:
        """Images to a grid of vectors: (B, C, H, W) → (B, features, h, w)."""
        raise NotImplementedError

    def grid_decoder(self, features: int, channels: int = 1) -> Decoder:
        """Grids of vectors to images, P = `channels`: (B, features, h, w) → (B, C·P, H, W)."""
        raise NotImplementedError


NETWORKS: Registry[Network] = Registry("aelab.networks", Network, "network")  # type: ignore[type-abstract]
NetworkSection: TypeAlias = Annotated[
    dict[str, Any], NETWORKS, Field(description="what its encoder and decoder are made of")
]
