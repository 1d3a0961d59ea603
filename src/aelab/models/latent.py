"""Conversion of latents to vectors and back. A latent is one tensor, or a tuple for several stochastic layers.

Dimensions: B batch, d numbers in all tensors of a latent.
"""

import torch
from torch import Tensor

from aelab.models.base import Latent


def parts(z: Latent) -> tuple[Tensor, ...]:
    """Return the tensors of a latent as a tuple."""
    return (z,) if isinstance(z, Tensor) else z


def flatten(z: Latent) -> Tensor:
    """Concatenate all numbers of each latent into one vector, (B, d)."""
    return torch.cat([part.flatten(1) for part in parts(z)], 1)


def unflatten(vectors: Tensor, like: Latent) -> Latent:
    """Turn vectors (B, d) into latents with the shapes of `like`; the batch size of `like` does not matter."""
    shapes = [part.shape[1:] for part in parts(like)]
    split = vectors.split([shape.numel() for shape in shapes], 1)
    found = tuple(part.unflatten(1, shape) for part, shape in zip(split, shapes, strict=True))
    return found[0] if isinstance(like, Tensor) else found


def line(z: Latent, start: int, end: int, count: int) -> Latent:
    """Return `count` latents on the line between the latents number `start` and `end` of a batch, both included."""

    def of_part(part: Tensor) -> Tensor:
        t = torch.linspace(0, 1, count, device=part.device).view(-1, *[1] * (part.ndim - 1))
        return torch.lerp(part[start], part[end], t)

    return of_part(z) if isinstance(z, Tensor) else tuple(map(of_part, z))
