"""Conversion of latents to vectors and back.

A latent is the code of a batch of images: one tensor, or a tuple of tensors if the model has several stochastic layers.

Dimensions: B batch, d numbers in the code of one image, in all tensors together.
"""

import torch
from torch import Tensor

from aelab.models.base import Latent


def parts(z: Latent) -> tuple[Tensor, ...]:
    """Return the tensors of a latent as a tuple."""
    return (z,) if isinstance(z, Tensor) else z


def flatten(z: Latent) -> Tensor:
    """Concatenate all numbers in the code of each image into one vector: latent → (B, d)."""
    return torch.cat([part.flatten(1) for part in parts(z)], 1)


def unflatten(vectors: Tensor, like: Latent) -> Latent:
    """Turn vectors (B, d) into a latent whose tensors have the shapes of `like`, except for the batch size."""
    shapes = [part.shape[1:] for part in parts(like)]
    split = vectors.split([shape.numel() for shape in shapes], 1)
    found = tuple(part.unflatten(1, shape) for part, shape in zip(split, shapes, strict=True))
    return found[0] if isinstance(like, Tensor) else found


def line(z: Latent, start: int, end: int, count: int) -> Latent:
    """Return `count` evenly spaced codes on the line from code number `start` to code number `end` of a batch.

    Both ends are included.
    """

    def of_part(part: Tensor) -> Tensor:
        t = torch.linspace(0, 1, count, device=part.device).view(-1, *[1] * (part.ndim - 1))
        return torch.lerp(part[start], part[end], t)

    return of_part(z) if isinstance(z, Tensor) else tuple(map(of_part, z))
