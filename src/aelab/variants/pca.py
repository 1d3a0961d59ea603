"""PCA: the linear code with the least squared error, in closed form.

    z = Wᵀ(x − μ),  x′ = μ + W z,  W the first `code` eigenvectors of the training images' covariance, μ their mean

Pearson 1901; Baldi & Hornik 1989: a linear autoencoder that is trained to its end finds no better code. An autoencoder
with as many numbers has to beat this one, or its network and its training have given nothing.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aelab.core.errors import UserError
from aelab.models.base import CodeSize, Shape
from aelab.variants._floor import Floor

NUMBERS = 2**26  # in all images that it is fitted to, at most: they lie in memory, 4 bytes each, twice


class PCA(Floor):
    """A floor: the `code` directions in which training images vary most, found without a training."""

    def __init__(self, image: Shape, *, code: CodeSize) -> None:
        super().__init__(image)
        numbers = math.prod(image)
        if code > numbers:
            msg = f"code is {code}, and PCA of images of {numbers} numbers has {numbers} components"
            raise ValueError(msg)
        self.mean = nn.Parameter(torch.zeros(numbers))
        self.components = nn.Parameter(torch.zeros(numbers, code))  # W, in columns; pixels until it is fitted
        self.components.detach().fill_diagonal_(1)

    @property
    def start_images(self) -> int:
        """All of them, up to 2²⁶ numbers."""
        return max(1, NUMBERS // math.prod(self.image))

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Fit it to images x (N, C, H, W), to the same bits on each run.

        Raises:
            UserError: the code has more numbers than N images have directions in which they differ.
        """
        count, code = len(x), self.components.shape[1]
        if code >= count:
            msg = f"code is {code}: {count} images differ in {count - 1} directions, so that PCA finds no more numbers"
            raise UserError(msg)
        mean = x.flatten(1).mean(0)
        centred = x.flatten(1) - mean
        wide = centred.shape[1] > count  # then the small matrix is that of the images' products: the same eigenvalues
        products = centred @ centred.T if wide else centred.T @ centred
        vectors = torch.linalg.eigh(products.cpu().double()).eigenvectors.flip(1)[:, :code].to(centred)
        components = F.normalize(centred.T @ vectors, dim=0) if wide else vectors
        largest = components.gather(0, components.abs().argmax(0, keepdim=True))  # an eigenvector has no sign
        self.mean.copy_(mean)
        self.components.copy_(components * largest.sign())

    def encode(self, x: Tensor) -> Tensor:
        """z, shape (B, code): the component with the largest variance first."""
        return (x.flatten(1) - self.mean) @ self.components

    def decode(self, z: Tensor) -> Tensor:
        """x′, clamped to [0, 1], shape (B, C, H, W)."""
        return (self.mean + z @ self.components.T).unflatten(1, self.image).clamp(0, 1)
