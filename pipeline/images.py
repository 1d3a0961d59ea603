"""The images of a split as the models see them, for the stages that measure."""

import numpy as np

from autoencoders import data, storage
from autoencoders.sources import Pairs
from pipeline import paths
from pipeline.params import Params


def seen(params: Params, split: str) -> data.Bytes:
    """The clean images of a split, uint8 (N, C, H, W): where the training's are binarised anew in each step, one
    binarisation of them, so that what is learned here compares with the other splits.
    """
    images = storage.read(paths.images(paths.CLEAN, split))
    if split == "train" and params.dataset.binarize == "dynamic":
        return np.concatenate(list(data.binarise([images], [params.evaluation.seed])))
    return images


def labelled(params: Params, split: str) -> Pairs:
    """The same with their classes, (N,) int64."""
    return Pairs(seen(params, split), storage.read(paths.labels(split)).astype(np.int64))
