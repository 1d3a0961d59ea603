"""Base class of the models whose code is a grid of indices into a codebook.

Dimensions: B batch, C image channels, (H, W) image size, (h, w) grid of the indices.
"""

from abc import abstractmethod

from torch import Tensor

from aelab.models.base import Autoencoder
from aelab.models.quantizer import Quantizer


class DiscreteAutoencoder(Autoencoder):
    """Base class of autoencoders whose code is a grid of indices, each from 0 to K − 1.

    Attributes:
        quantizer: maps the encoder's output to indices. K is `quantizer.codes`.
    """

    # This class cannot be a `Protocol`. Since Python 3.12, `isinstance` with a protocol ignores the submodules of an
    # `nn.Module`, such as `quantizer`.
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
