import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelab.evaluation import density
from aelab.models.base import VARIANTS, Autoencoder, Batch, Losses
from aelab.models.discrete import DiscreteAutoencoder
from tests.support.toys import CASES, IMAGE, SECTIONS, toy_model


class Corners(Autoencoder):
    """Autoencoder whose code is four pixels of the image, times a scale."""

    def __init__(self, scale: float = 1.0, numbers: int = 4) -> None:
        super().__init__(IMAGE)
        self.numbers = numbers
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.numbers] * self.scale

    def decode(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def loss(self, batch: Batch) -> Losses:
        raise NotImplementedError


def modes(count: int = 600) -> NDArray[np.uint8]:
    """Images whose first two pixels are equal, in three narrow groups."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, *IMAGE), np.uint8)
    gray = rng.choice([20, 120, 220], count) + rng.integers(-5, 6, count)
    images[:, 0, 0, :2] = gray[:, None]
    return images


def drawn(model: Autoencoder, images: NDArray[np.uint8], seed: int = 0) -> Tensor:
    return density.fitted(model, images, 1000, seed=seed, batch_size=100)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_codes_are_drawn_where_those_of_images_lie(scale: float) -> None:
    """For every scale of the code, samples fall into the three groups, and their first two numbers are equal."""
    z = drawn(Corners(scale), modes()) / scale * 255
    assert z.shape == (1000, 4)
    assert (z[:, 0] - z[:, 1]).abs().max() < 3
    groups = (z[:, :1] - torch.tensor([20.0, 120, 220])).abs()
    assert (groups.amin(1) < 20).float().mean() > 0.99
    torch.testing.assert_close(groups.argmin(1).bincount() / 1000, torch.full((3,), 1 / 3), atol=0.08, rtol=0)


def test_a_seed_gives_the_same_codes_again() -> None:
    assert torch.equal(drawn(Corners(), modes()), drawn(Corners(), modes()))
    assert not torch.equal(drawn(Corners(), modes()), drawn(Corners(), modes(), seed=1))


@pytest.mark.parametrize("images", [modes(2), modes(5), np.zeros((50, *IMAGE), np.uint8)])
def test_few_images_and_equal_ones_are_fitted_too(images: NDArray[np.uint8]) -> None:
    assert drawn(Corners(), images).isfinite().all()


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_codes_that_are_not_finite_are_no_numbers(scale: float) -> None:
    assert drawn(Corners(scale), modes()).isnan().all()


@pytest.mark.parametrize("case", CASES)
def test_a_density_is_fitted_or_there_is_a_reason(case: str, pixels: NDArray[np.uint8]) -> None:
    name = case.split(maxsplit=1)[0]
    model = toy_model(name, **CASES[case])
    with torch.no_grad():
        z = model.encode(torch.zeros(2, *IMAGE))
    vector = isinstance(z, Tensor) and z.ndim == 2
    assert (density.unfitted(model) is None) == vector
    if vector:
        assert model.decode(drawn(model, pixels)[:3]).shape == (3, *IMAGE)


def test_a_large_code_is_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density, "LARGEST", 4)
    assert density.unfitted(Corners(numbers=4)) is None
    reason = density.unfitted(Corners(numbers=5))
    assert reason is not None
    assert "5 numbers, more than the 4" in reason


@pytest.mark.parametrize("quantizer", SECTIONS)
def test_uniform_codes_are_all_equally_likely(quantizer: str) -> None:
    model = toy_model("vqvae", quantizer={"name": quantizer, **SECTIONS[quantizer]})
    assert isinstance(model, DiscreteAutoencoder)
    indices = density.uniform(model, 500, seed=0)
    assert indices.shape[1:] == model.indices(torch.zeros(1, *IMAGE)).shape[1:]
    counts = indices.flatten().bincount(minlength=model.quantizer.codes)
    assert len(counts) == model.quantizer.codes
    expected = indices.numel() / len(counts)
    assert (counts - expected).abs().max() < 6 * expected**0.5
    with torch.no_grad():
        assert model.decode_indices(indices[:3]).shape == (3, *IMAGE)


def test_every_variant_with_indices_has_a_uniform_prior() -> None:
    """The stage decides by the class and the report by the capability; both must agree."""
    for name in VARIANTS.available():
        model = toy_model(name)
        assert isinstance(model, DiscreteAutoencoder) == ("codebook" not in model.undefined)
