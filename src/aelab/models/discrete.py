"""Base class of the models whose code is a grid of indices into a codebook. Files and servers store the indices.

Dimensions: B batch, C image channels, (H, W) image size, (h, w) grid of the indices.
"""

from abc import abstractmethod

from torch import Tensor

from aelab.models.base import Autoencoder
from aelab.models.quantizer import Quantizer


class DiscreteAutoencoder(Autoencoder):
    """Base class of autoencoders whose code is a grid of indices, each from 0 to K − 1.

    A protocol would not work here. Since Python 3.12 `isinstance` of a protocol looks attributes up statically and
    misses the submodules of an `nn.Module`.

    Attributes:
        quantizer: maps the encoder's output to indices; K is `quantizer.codes`.
    """

    quantizer: Quantizer

    @abstractmethod
    def indices(self, x: Tensor) -> Tensor:
        """Encode images into indices.

        Args:
            x: images (B, C, H, W) with values in [0, 1].

        Returns:
            The indices (B, h, w), int64.
        """

    @abstractmethod
    def decode_indices(self, indices: Tensor) -> Tensor:
        """Decode indices into images.

        Args:
            indices: indices (B, h, w), int64, each from 0 to K − 1.

        Returns:
            Images (B, C, H, W) with values in [0, 1].
        """
