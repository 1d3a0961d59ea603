"""Floors of a likelihood, for which no model is needed: what lossless files take, and what a binarisation hides.

    file      8 · bytes · ln 2 nats of an image; ÷ (C·H·W · ln 2): bits/dim. All of the file counts, its header too.
    entropy   Σ_i h(x_i),  h(x) = −x·ln x − (1 − x)·ln(1 − x), of gray values x that are probabilities of white

A file is a code, and a code's length is a likelihood (Shannon 1948): a model that needs as many nats knows no more than
PNG or WebP knows of any picture. Where gray values are the targets of a Bernoulli likelihood, −ELBO cannot fall
below the entropy, since −x·ln p − (1 − x)·ln(1 − p) is least at p = x.
"""

import io
import math

import numpy as np
import torch
from PIL import Image

from aelab.core.tensors import as_float
from aelab.data.datasets import Bytes
from aelab.data.pairs import Pairs

NUMBERS = 2**20  # in all images that are saved, at most: half a second
FORMATS = {"png": {"optimize": True}, "webp": {"lossless": True}}
BLACK_AND_WHITE = (0, 255)


def floors(images: Bytes, count: int) -> dict[str, float]:
    """Means over `count` evenly spread images at most, fewer where they are large: the entropy, and of each format nats
    and bits/dim. Images in black and white alone are saved with one bit a pixel where the format has such pixels.

    Args:
        images: uint8 (N, C, H, W) of 1 or 3 channels.
        count: of them.
    """
    images = np.asarray(Pairs.of(images).thinned(min(count, max(1, NUMBERS // math.prod(images.shape[1:])))).targets)
    binary = bool(np.isin(images, BLACK_AND_WHITE).all())
    dimensions = math.prod(images.shape[1:])
    found = {"binarisation_nats": entropy(images)}
    for name in FORMATS:
        nats = 8 * math.log(2) * sum(file_bytes(image, name, binary=binary) for image in images) / len(images)
        found |= {f"{name}_nats": nats, f"{name}_bits_per_dim": nats / dimensions / math.log(2)}
    return found


def entropy(images: Bytes) -> float:
    """Mean over the images of the entropy in nats that is left when each pixel is drawn white with its gray value."""
    values = torch.from_numpy(np.bincount(images.ravel(), minlength=256)).double()  # how often there is each
    x = as_float(torch.arange(256, dtype=torch.uint8)).double()
    return float((values * (torch.special.entr(x) + torch.special.entr(1 - x))).sum()) / len(images)


def file_bytes(image: Bytes, name: str, *, binary: bool) -> int:
    """Of a file of the image (C, H, W)."""
    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    file = io.BytesIO()
    (picture.convert("1") if binary and len(image) == 1 else picture).save(file, name, **FORMATS[name])
    return file.tell()
