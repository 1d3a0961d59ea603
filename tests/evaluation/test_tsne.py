import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aelab.data.pairs import Pairs
from aelab.evaluation import tsne
from aelab.models import checkpoint
from aelab.models.base import Autoencoder

SHAPE = (1, 4, 4)


@pytest.fixture
def model() -> Autoencoder:
    """Model whose code is the image."""
    return checkpoint.build("identity", SHAPE, {})


def images(count: int = 60) -> Pairs:
    """Images of two classes in turns: dark, then bright."""
    classes = np.arange(count) % 2
    pixels = np.random.default_rng(0).integers(0, 40, (count, *SHAPE)) + 200 * classes[:, None, None, None]
    return Pairs(pixels.astype(np.uint8), classes)


def neighbours_of_the_same_class(found: NDArray[np.float32]) -> float:
    places, classes = torch.from_numpy(found[:, :2]), found[:, 2]
    nearest = torch.cdist(places, places).fill_diagonal_(np.inf).argmin(1)
    return float((classes == classes[nearest]).mean())


def test_images_with_near_codes_lie_near_to_each_other_each_time_alike(model: Autoencoder) -> None:
    found, again = (tsne.code_map(model, images(), 16) for _ in range(2))
    assert found is not None
    assert again is not None
    assert found.shape == (60, 3)
    assert found.tobytes() == again.tobytes()
    assert neighbours_of_the_same_class(found) == 1
    shuffled = np.column_stack([np.random.default_rng(0).permutation(found[:, :2]), found[:, 2]])
    assert neighbours_of_the_same_class(shuffled) < 0.9


def test_so_many_images_are_placed_however_many_there_are(model: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsne, "IMAGES", 20)
    found = tsne.code_map(model, images(), 16)
    assert found is not None
    assert len(found) == 20


@pytest.mark.parametrize("count", [1, 3])
def test_of_few_images_there_is_no_map(count: int, model: Autoencoder) -> None:
    assert tsne.code_map(model, images(count), 16) is None
    assert tsne.code_map(model, images(5), 16) is not None


def test_of_codes_that_are_all_the_same_or_infinite_there_is_none(
    model: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (0.5, torch.inf, torch.nan):
        monkeypatch.setattr(model, "code_of", lambda x, value=value: torch.full((len(x), 3), value))
        assert tsne.code_map(model, images(), 16) is None
