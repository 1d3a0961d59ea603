"""Images of a white shape on black, made from known factors. A code's dimensions can be compared with the factors.

    shape   ellipse, rectangle or triangle; the shape is also the image's class
    size    half of the shape's length, 4 to 6.5 pixels; the width is 1/2 of the length (triangle: 3/4 of the length)
    angle   angle between the long axis and the horizontal, −45° to 45°; no shape looks the same at two of the angles
    x, y    distance of the shape's centre from the left edge (x) and the top edge (y), 8.375 to 19.625 pixels

As in dSprites (Matthey et al. 2017), the factors are independent, and the values of each factor are equally likely.
All numbers are fractions with a power of two as the denominator, so sums and products are exact, and every machine
computes the same bytes.
"""

import numpy as np
from numpy.typing import NDArray

from aelab.core import arrays
from aelab.data.datasets import Bytes

# Number of values of each factor.
COUNTS = {"shape": 3, "size": 6, "angle": 10, "x": 16, "y": 16}
SIDE = 28  # pixels
FINER = 4  # a pixel has FINER × FINER points; the pixel's gray value is the share of points that are inside the shape


def draw(count: int) -> Bytes:
    """Choose random factors for `count` images: (count, 5), each factor as the index of its value."""
    return np.random.default_rng(0).integers(0, list(COUNTS.values()), (count, len(COUNTS)), np.uint8)


def render(factors: Bytes) -> Bytes:
    """Paint one image for each row of factors: (N, 5) → uint8 (N, 1, SIDE, SIDE)."""
    images = np.empty((len(factors), 1, SIDE, SIDE), np.uint8)
    for rows in arrays.pieces(len(factors), 8 * (SIDE * FINER) ** 2):
        images[rows, 0] = _render(factors[rows].astype(np.float64))
    return images


def _render(factors: NDArray[np.float64]) -> Bytes:
    """Paint images without an axis for channels: factors (n, 5) → uint8 (n, SIDE, SIDE)."""
    shape, size, angle, x, y = factors.T[:, :, None, None]
    r, radians = 4 + size / 2, np.deg2rad(10 * angle - 45)
    cos, sin = (np.round(1024 * f(radians)) / 1024 for f in (np.cos, np.sin))
    points = (np.arange(SIDE * FINER) + 0.5) / FINER
    right, down = points - (8.375 + 0.75 * x), points[:, None] - (8.375 + 0.75 * y)
    u, v = cos * right + sin * down, cos * down - sin * right  # positions along and across the long axis
    inside = np.select(
        [shape == 0, shape == 1],
        [u**2 + 4 * v**2 <= r**2, (np.abs(u) <= r) & (np.abs(v) <= r / 2)],
        (u >= -r) & (np.abs(v) <= (r - u) * 3 / 8),
    )
    covered = inside.reshape(-1, SIDE, FINER, SIDE, FINER).sum((2, 4))
    return (covered * 255 // FINER**2).astype(np.uint8)
