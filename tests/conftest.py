from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autoencoders import devices

devices.prepare("cpu", threads=1)

IMAGE = (1, 8, 8)
PARAMETERS: dict[str, dict[str, Any]] = {
    "ae": {"code": 4, "width": 8},
    "dae": {"code": 4, "width": 8},
    "vae": {"code": 4, "width": 8, "beta": 1.0, "likelihood": "bernoulli"},
    "vqvae": {
        "codes": 16,
        "code_size": 4,
        "width": 8,
        "beta": 0.25,
        "likelihood": "bernoulli",
        "prior": {"width": 16, "layers": 1, "heads": 2, "training": {"steps": 4}},
    },
}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def squares() -> NDArray[np.uint8]:
    """Toy images: a bright square on black at a random place, uint8 (64, 1, 8, 8)."""
    rng = np.random.default_rng(0)
    images = np.zeros((64, *IMAGE), np.uint8)
    for image in images:
        top, left = rng.integers(0, 5, 2)
        image[0, top : top + 3, left : left + 3] = rng.integers(128, 256)
    return images


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return squares()


@pytest.fixture
def x(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(pixels).float() / 255
