"""Latents as vectors: a latent is one tensor or, of a model with several stochastic layers, several.

Dimensions: B batch, d numbers of a latent in all its tensors.
"""

import torch
from torch import Tensor

from aelab.models.base import Latent


def parts(z: Latent) -> tuple[Tensor, ...]:
    """The tensors of a latent, be it one or several."""
    return (z,) if isinstance(z, Tensor) else z


def flatten(z: Latent) -> Tensor:
    """All numbers of each latent as one vector: (B, d)."""
    return torch.cat([part.flatten(1) for part in parts(z)], 1)


def unflatten(vectors: Tensor, like: Latent) -> Latent:
    """Vectors (B, d) as latents of the structure of `like`, whatever its batch."""
    shapes = [part.shape[1:] for part in parts(like)]
    split = vectors.split([shape.numel() for shape in shapes], 1)
    found = tuple(part.unflatten(1, shape) for part, shape in zip(split, shapes, strict=True))
    return found[0] if isinstance(like, Tensor) else found


def line(z: Latent, start: int, end: int, count: int) -> Latent:
    """`count` latents, evenly along the straight line from one of a batch to another, both of them included."""

    def of_part(part: Tensor) -> Tensor:
        t = torch.linspace(0, 1, count, device=part.device).view(-1, *[1] * (part.ndim - 1))
        return torch.lerp(part[start], part[end], t)

    return of_part(z) if isinstance(z, Tensor) else tuple(map(of_part, z))
