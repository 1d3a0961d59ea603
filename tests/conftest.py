import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aelab.core import devices
from tests.support.toys import squares

devices.prepare("cpu", threads=1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return squares()


@pytest.fixture
def x(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(pixels).float() / 255
