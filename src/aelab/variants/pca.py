"""PCA: the linear code with the least squared error, in closed form.

    z = Wᵀ(x − μ),  x′ = μ + W z,  μ the mean training image, W the first `code` eigenvectors of the images' covariance

Pearson 1901. PCA is a floor, a baseline without training. A fully trained linear autoencoder finds no better code
(Baldi & Hornik 1989). If an autoencoder with a code of the same size has a larger error than PCA, its network and its
training have gained nothing.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aelab.core.errors import UserError
from aelab.models.base import CodeSize, Shape
from aelab.variants._floor import Floor

NUMBERS = 2**26  # largest number of pixel values in the fit; each value needs 8 bytes of memory


class PCA(Floor):
    """A floor: the first `code` principal components of the training images, in closed form."""

    def __init__(self, image: Shape, *, code: CodeSize) -> None:
        super().__init__(image)
        numbers = math.prod(image)
        if code > numbers:
            msg = f"code is {code}: must be at most {numbers}, the number of components that PCA has for these images"
            raise ValueError(msg)
        self.mean = nn.Parameter(torch.zeros(numbers))
        self.components = nn.Parameter(torch.zeros(numbers, code))  # W; before the fit, z is the first pixels of x
        self.components.detach().fill_diagonal_(1)

    @property
    def start_images(self) -> int:
        """Largest number of training images for the fit. Together these images have at most 2²⁶ pixel values."""
        return max(1, NUMBERS // math.prod(self.image))

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Compute the mean and the principal components of images x (N, C, H, W).

        The same x always gives the same bits.

        Raises:
            UserError: the code has more than N − 1 numbers.
        """
        count, code = len(x), self.components.shape[1]
        if code >= count:
            msg = (
                f"code is {code}: {count} images differ in {count - 1} directions, so code must be at most {count - 1}"
            )
            raise UserError(msg)
        mean = x.flatten(1).mean(0)
        centred = x.flatten(1) - mean
        # If an image has more values than there are images, the matrix of inner products of the images is smaller than
        # the covariance matrix. Up to a constant factor, both matrices have the same eigenvalues other than 0.
        wide = centred.shape[1] > count
        products = centred @ centred.T if wide else centred.T @ centred
        vectors = torch.linalg.eigh(products.cpu().double()).eigenvectors.flip(1)[:, :code].to(centred)
        components = F.normalize(centred.T @ vectors, dim=0) if wide else vectors
        # The sign of an eigenvector is arbitrary. Here its number with the largest absolute value becomes positive.
        largest = components.gather(0, components.abs().argmax(0, keepdim=True))
        self.mean.copy_(mean)
        self.components.copy_(components * largest.sign())

    def encode(self, x: Tensor) -> Tensor:
        """Return z, (B, code). The numbers are in the order of decreasing variance over the training images."""
        return (x.flatten(1) - self.mean) @ self.components

    def decode(self, z: Tensor) -> Tensor:
        """Return x′, clamped to [0, 1], (B, C, H, W)."""
        return (self.mean + z @ self.components.T).unflatten(1, self.image).clamp(0, 1)
