"""Toy images, toy parameters of every part, toy models."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelab.data.pairs import Pairs
from aelab.models import checkpoint
from aelab.models.base import Autoencoder, Batch

IMAGE = (1, 8, 8)
NETWORK = {"name": "patches", "width": 8}
PARAMETERS: dict[str, dict[str, Any]] = {
    "ae": {"network": NETWORK, "code": 4},
    "contractive": {"network": NETWORK, "code": 4, "penalty": 0.1},
    "dae": {"network": NETWORK, "code": 4},
    "sparse": {"network": NETWORK, "code": 4, "penalty": 0.1},
    "tcvae": {"network": NETWORK, "code": 4, "beta": 4.0, "likelihood": "bernoulli"},
    "vae": {"network": NETWORK, "code": 4, "beta": 1.0, "likelihood": "bernoulli"},
    "iwae": {"network": NETWORK, "code": 4, "samples": 3, "likelihood": "bernoulli"},
    "ladder": {"network": NETWORK, "width": 8, "code": 4, "layers": 2, "channels": 2, "likelihood": "bernoulli"},
    "vqvae": {
        "network": NETWORK,
        "quantizer": {"name": "codebook", "codes": 16, "size": 4},
        "beta": 0.25,
        "likelihood": "bernoulli",
        "prior": {"width": 16, "layers": 1, "heads": 2, "training": {"steps": 4}},
    },
    "wae": {"network": NETWORK, "code": 4, "penalty": 10.0},
}
SECTIONS: dict[str, dict[str, Any]] = {  # of every quantiser, for vectors of 3 numbers
    "codebook": {"codes": 7, "size": 3},
    "ema": {"codes": 7, "size": 3},
    "fsq": {"levels": [8, 5, 4]},
    "residual": {"codes": 7, "size": 3, "depth": 4},
}


def batch(
    inputs: Tensor, targets: Tensor, generator: torch.Generator, step: int = 10, steps: int = 10, samples: int = 0
) -> Batch:
    """What a loss sees; after the last step, and the whole of the training images, unless it is said otherwise."""
    return Batch(inputs, targets, generator, torch.tensor(step), steps, samples or len(targets))


def squares() -> NDArray[np.uint8]:
    """Toy images: a bright square on black at a random place, uint8 (64, 1, 8, 8)."""
    rng = np.random.default_rng(0)
    images = np.zeros((64, *IMAGE), np.uint8)
    for image in images:
        top, left = rng.integers(0, 5, 2)
        image[0, top : top + 3, left : left + 3] = rng.integers(128, 256)
    return images


def trained(variant: str, **changes: object) -> Autoencoder:
    model = checkpoint.build(variant, IMAGE, PARAMETERS[variant] | changes, seed=0).eval()
    model.start_from(torch.rand(8, *IMAGE))
    return model


CLASSES = 4


def quadrants(count: int, seed: int, *, shuffled: bool = False) -> Pairs:
    """Noise with one bright quadrant, which is its class; or has nothing to do with it."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (count, *IMAGE), np.uint8)
    labels = np.arange(count) % CLASSES
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * (label // 2) : 4 + 4 * (label // 2), 4 * (label % 2) : 4 + 4 * (label % 2)] += 100
    return Pairs(images, rng.permutation(labels) if shuffled else labels)
