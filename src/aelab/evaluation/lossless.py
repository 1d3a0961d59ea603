"""Reference values for a model's −log p(x), computed without a model: file sizes, and the entropy of binarisation.

    file      8 · bytes · ln 2 nats for each image; bytes include the file's header; bits/dim = nats ÷ (C·H·W · ln 2)
    entropy   Σ_i h(x_i),  h(x) = −x·ln x − (1 − x)·ln(1 − x), if each gray value x is the probability of white

The length of a lossless file is a negative log-likelihood (Shannon 1948). If a model's −log p(x) is as large as a PNG
or WebP file, the model describes the data no better than a format for arbitrary pictures.

If gray values are the targets of a Bernoulli likelihood, −ELBO cannot fall below the entropy. The reason is that the
loss −x·ln p − (1 − x)·ln(1 − p) is smallest at p = x, where the loss is h(x).
"""

import io
import math

import numpy as np
import torch
from PIL import Image

from aelab.core.tensors import as_float
from aelab.data.datasets import Bytes
from aelab.data.pairs import Pairs

NUMBERS = 2**20  # maximum number of pixel values that are saved as files, which takes half a second
FORMATS = {"png": {"optimize": True}, "webp": {"lossless": True}}
BLACK_AND_WHITE = (0, 255)


def floors(images: Bytes, count: int) -> dict[str, float]:
    """Reference values for −log p(x), as means over images: entropy of binarisation, and size of lossless files.

    If all pixels of gray `images` are black or white, the PNG files have one bit per pixel.

    Args:
        images: uint8 (N, C, H, W) with 1 or 3 channels.
        count: maximum number of images to use, evenly spread. If images are large, fewer images are used.

    Returns:
        "binarisation_nats" and, for each format, "<format>_nats" and "<format>_bits_per_dim".
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
    """Mean entropy of a binarised image in nats. Each gray value is the probability that its pixel becomes white."""
    values = torch.from_numpy(np.bincount(images.ravel(), minlength=256)).double()  # count of each gray value
    x = as_float(torch.arange(256, dtype=torch.uint8)).double()
    return float((values * (torch.special.entr(x) + torch.special.entr(1 - x))).sum()) / len(images)


def file_bytes(image: Bytes, name: str, *, binary: bool) -> int:
    """Size in bytes of an image (C, H, W) as a file of the format `name`. If `binary`, a gray pixel has one bit."""
    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    file = io.BytesIO()
    (picture.convert("1") if binary and len(image) == 1 else picture).save(file, name, **FORMATS[name])
    return file.tell()
