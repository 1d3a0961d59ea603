"""A model whose code is a grid of indices into a codebook: what files and servers hold of its codes.

Dimensions: B batch, C image channels, (H, W) image size, (h, w) grid of the indices.
"""

from abc import abstractmethod

from torch import Tensor

from aelab.models.base import Autoencoder
from aelab.models.quantizer import Quantizer


class DiscreteAutoencoder(Autoencoder):
    """An autoencoder that decodes whole numbers, each below K = `quantizer.codes`.

    A class to inherit from, not a protocol: since Python 3.12 `isinstance` of a protocol looks attributes up
    statically, and does not see the submodules of an `nn.Module`.
    """

    quantizer: Quantizer

    @abstractmethod
    def indices(self, x: Tensor) -> Tensor:
        """The indices of images: (B, C, H, W) → (B, h, w) int64."""

    @abstractmethod
    def decode_indices(self, indices: Tensor) -> Tensor:
        """The images of indices, values in [0, 1]: (B, h, w) → (B, C, H, W)."""
