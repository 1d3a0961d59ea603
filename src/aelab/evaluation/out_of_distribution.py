"""Out-of-distribution images: noise, photographs, and the anomalies that `dataset.anomalies` in params.yaml names.

Noise and photographs show whether an autoencoder is close to the identity function. The identity function returns every
image unchanged. An autoencoder that has learned the manifold of the data (Vincent et al. 2010, section 2.4) moves each
image towards the data. The photographs are part of scikit-learn, so no download is needed.

The module `anomaly.py` computes anomaly scores, which are high for strange images. This module adds three scores:

    nearest         Euclidean distance from the image's code to the nearest code of a training image
    intensity, png  baselines that need no model: the mean pixel value, and the bytes of the image as a PNG file
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
LEAST = 0.25  # width of the smallest crop ÷ width of the largest crop that fits into the photograph


def noise(count: int, image: Shape, *, seed: int) -> Bytes:
    """Images of uniform noise, uint8 (count, C, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *image), np.uint8)


def photographs(count: int, image: Shape, *, seed: int) -> Bytes:
    """Random crops of scikit-learn's photographs, resized to the shape `image`.

    Each crop has the aspect ratio of `image`. The width of a crop is drawn uniformly between `LEAST` and 1 times the
    largest width that fits into the photograph. The position is also drawn uniformly. The photographs are used in turn.

    Args:
        count: number of crops.
        image: shape (C, H, W) of a crop after resizing; with 1 channel, crops are gray.
        seed: seed of the random sizes and positions.

    Returns:
        uint8 (count, C, H, W).
    """
    from PIL import Image  # noqa: PLC0415 - only the stage evaluate needs Pillow

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
    """Distance from each image's code to the nearest code of a training image.

    Args:
        model: in evaluation mode, on any device.
        train: training images, uint8 (N, C, H, W). If codes are large, only some evenly spread images are used.
        several: sets of images, uint8 (M, C, H, W) each. M may differ between the sets.
        batch_size: images per batch.

    Returns:
        For each set, the Euclidean distances of its images, (M,), on the CPU.
    """
    size = probes.vectors(model, torch.from_numpy(np.array(train[:1]))).shape[1]
    train = Pairs.of(train).thinned(max(1, probes.NUMBERS // size)).targets

    def codes(images: Bytes) -> Iterable[Tensor]:
        return (probes.vectors(model, x) for x, _ in Pairs.of(images).split(batch_size))

    learned = torch.cat(list(codes(train)))
    return [torch.cat([torch.cdist(z, learned).amin(1).cpu() for z in codes(images)]) for images in several]


def pixels(images: Bytes) -> dict[str, Tensor]:
    """Scores of the pixels: the mean pixel value of each image, and the bytes of the image as a PNG file.

    Args:
        images: uint8 (N, C, H, W).

    Returns:
        The two scores by name, (N,) each.
    """
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
    """Scores of ordinary images, followed by the scores of anomalies.

    For a model that returns each image unchanged, reconstruction errors say nothing, so the scores of the pixels
    replace the scores of `anomaly.py`. For every model, the distance to the nearest training image is computed.

    Args:
        model: in evaluation mode, on any device.
        others: ordinary images, uint8 (N, C, H, W), such as the test split.
        strange: anomalies, uint8 (M, C, H, W).
        train: training images, uint8 (L, C, H, W).
        known: scores of the ordinary images, by name, (N,) each. These scores are not computed again.
        batch_size: images per batch.
        seed: seed of the random codes z ~ q(z|x), which some scores need.

    Returns:
        The scores by name, (N + M,) each, on the CPU: first the N ordinary images, then the M anomalies.
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
