"""Images that are unlike the data: what a model that only copies gives back as well, and what is to be told from them.

An autoencoder that has drifted to the identity function reconstructs whatever it sees; one that has learned where the
data lie (Vincent et al. 2010, section 2.4: the manifold) draws what it sees towards them. Needs no network: the
photographs lie in scikit-learn.

Anomalies of the user's choice are told from test images by the scores of `anomaly.py`, and beside them by

    nearest         Euclidean distance of the code to the nearest code of a training image
    intensity, png  floors, of the pixels alone: their mean, and the bytes of a PNG file
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import distribution

import numpy as np
import torch
from torch import Tensor

from aelab.core.tensors import BATCH, as_float
from aelab.data.datasets import Bytes, Shape
from aelab.data.pairs import Pairs
from aelab.evaluation import anomaly, lossless, probes
from aelab.evaluation.metric_names import NEAREST, PIXELS
from aelab.models.base import Autoencoder

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


@torch.no_grad()
def nearest(model: Autoencoder, train: Bytes, several: Iterable[Bytes], batch_size: int = BATCH) -> list[Tensor]:
    """For each of `several` lots of images the distance of each code to the nearest one of `train`: (N,) each."""
    size = probes.vectors(model, torch.from_numpy(np.array(train[:1]))).shape[1]
    train = Pairs.of(train).thinned(max(1, probes.NUMBERS // size)).targets

    def codes(images: Bytes) -> Iterable[Tensor]:
        return (probes.vectors(model, x) for x, _ in Pairs.of(images).split(batch_size))

    learned = torch.cat(list(codes(train)))
    return [torch.cat([torch.cdist(z, learned).amin(1).cpu() for z in codes(images)]) for images in several]


def pixels(images: Bytes) -> dict[str, Tensor]:
    """The scores that need no model."""
    means = [as_float(torch.from_numpy(np.array(image))).mean() for image in images]
    sizes = [lossless.file_bytes(np.asarray(image), "png", binary=False) for image in images]
    return dict(zip(PIXELS, (torch.stack(means), torch.tensor(sizes, dtype=torch.float32)), strict=True))


def of_two(
    model: Autoencoder,
    others: Bytes,
    strange: Bytes,
    train: Bytes,
    *,
    known: Mapping[str, Tensor],
    batch_size: int = BATCH,
    seed: int = 0,
) -> dict[str, Tensor]:
    """All scores that there are of others, and after them of strange images: (N + M,) each.

    Where a model gives images back as they are, nothing but their pixels is to be scored, and the nearest code is the
    nearest image: the floors.

    Args:
        model: in evaluation mode, on any device.
        others: images like those that it learned from, uint8 (N, C, H, W).
        strange: uint8 (M, C, H, W).
        train: of those that it learned from.
        known: scores of the others, (N,) each.
        batch_size: images per batch.
        seed: of the z in the bound.
    """
    lots = (others, strange)
    first, second = (
        anomaly.of_split(model, images, given, batch_size=batch_size, seed=seed)
        for images, given in zip(lots, (known, {}), strict=True)
    )
    if "reconstruction" in model.undefined:
        first, second = pixels(others), pixels(strange)
    found = {name: (first[name], second[name]) for name in first}
    pair = nearest(model, train, lots, batch_size)
    return {name: torch.cat(each) for name, each in found.items()} | {NEAREST: torch.cat(pair)}
