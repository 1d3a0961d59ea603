"""Images that are unlike any data set's: what a model that only copies gives back as well as the data.

An autoencoder that has drifted to the identity function reconstructs whatever it sees; one that has learned where the
data lie (Vincent et al. 2010, section 2.4: the manifold) draws what it sees towards them. Needs no network: the
photographs lie in scikit-learn.
"""

from importlib.metadata import distribution

import numpy as np

from aelab.data.datasets import Bytes, Shape

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
LEAST = 0.25  # of the largest crop that fits in a photograph


def noise(count: int, image: Shape, *, seed: int) -> Bytes:
    """`count` images of uniform noise, uint8 (count, C, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *image), np.uint8)


def photographs(count: int, image: Shape, *, seed: int) -> Bytes:
    """`count` crops of scikit-learn's photographs in turn, resized to `image`, uint8 (count, C, H, W).

    A crop has the proportions of the image; its size, from `LEAST` to all that fits, and its place are uniform.
    """
    from PIL import Image  # noqa: PLC0415 - of no other stage's concern

    channels, height, width = image
    rng = np.random.default_rng(seed)
    folder = distribution("scikit-learn").locate_file("sklearn/datasets/images")
    whole = [Image.open(str(folder / name)).convert("L" if channels == 1 else "RGB") for name in PHOTOGRAPHS]
    crops = np.empty((count, height, width, channels), np.uint8)
    for i, crop in enumerate(crops):
        photograph = whole[i % len(whole)]
        size = rng.uniform(LEAST, 1) * min(photograph.width / width, photograph.height / height)
        left, top = rng.uniform(0, photograph.width - size * width), rng.uniform(0, photograph.height - size * height)
        box = (left, top, left + size * width, top + size * height)
        crop[:] = np.asarray(photograph.resize((width, height), Image.Resampling.BOX, box)).reshape(crop.shape)
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
