"""Loads the clean images and the class labels of a split. The images are binarised if `dataset.binarize` says so."""

import numpy as np
from numpy.typing import NDArray

from aelab.core import arrays
from aelab.data import datasets
from pipeline.common import paths
from pipeline.common.params import Params


def seen(params: Params, split: str) -> datasets.Bytes:
    """Return the clean images of a split, binarised if `dataset.binarize` says so, uint8 (N, C, H, W).

    With `binarize: dynamic`, the file of the training images holds gray values. This function then binarises the
    training images once, as `static` would. So results on training images are comparable with results on other splits.
    """
    images = arrays.read(paths.images(paths.CLEAN, split))
    if split in params.dataset.binarised or params.dataset.binarize == "none":
        return images
    found = arrays.scratch(images.shape, np.uint8)
    rows = list(arrays.pieces(len(images), images[:1].nbytes))
    pieces = datasets.binarise((images[part] for part in rows), params.dataset.seed, split)
    for part, piece in zip(rows, pieces, strict=True):
        found[part] = piece
        arrays.release(images)
    return found


def classes(split: str) -> NDArray[np.int64]:
    """Return the class number of each image in a split, int64 (N,)."""
    return arrays.read(paths.labels(split)).astype(np.int64)
