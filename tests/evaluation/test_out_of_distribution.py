import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from aelab.data.datasets import Bytes, Shape
from aelab.evaluation import out_of_distribution, reconstruction
from aelab.evaluation.metric_names import IDENTITY
from aelab.models.base import VARIANTS, Autoencoder, Batch, Losses
from aelab.models.checkpoint import build
from tests.support.toys import IMAGE, PARAMETERS

SHAPES: list[Shape] = [(1, 8, 8), (3, 32, 32), (3, 12, 40), (1, 64, 16)]


@pytest.mark.parametrize("make", [out_of_distribution.noise, out_of_distribution.photographs])
@pytest.mark.parametrize("image", SHAPES)
def test_images_have_the_shape_of_the_data_and_come_again(make: Callable[..., Bytes], image: Shape) -> None:
    images = make(6, image, seed=0)
    assert images.shape == (6, *image)
    assert images.dtype == np.uint8
    assert images.flags.c_contiguous
    assert np.array_equal(images, make(6, image, seed=0))
    assert not np.array_equal(images, make(6, image, seed=1))
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6


def test_noise_is_uniform_and_the_same_everywhere() -> None:
    images = out_of_distribution.noise(100, (1, 28, 28), seed=0)
    assert images.mean() == pytest.approx(127.5, abs=1)
    assert images.std() == pytest.approx(256 / 12**0.5, rel=0.01)
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "c7eb276d21fa3f53"


def test_photographs_are_smooth_and_no_noise() -> None:
    def neighbours(images: Bytes) -> float:
        x = images.astype(float) - images.mean()
        return float((x[..., 1:] * x[..., :-1]).mean() / x.var())

    assert neighbours(out_of_distribution.photographs(50, (3, 32, 32), seed=0)) > 0.8
    assert abs(neighbours(out_of_distribution.noise(50, (3, 32, 32), seed=0))) < 0.05


def test_photographs_are_gray_as_their_colours_are() -> None:
    colour, gray = (out_of_distribution.photographs(4, (channels, 16, 16), seed=0).astype(float) for channels in (3, 1))
    luma = np.tensordot(colour, [0.299, 0.587, 0.114], (1, 0))
    assert luma == pytest.approx(gray[:, 0], abs=2)


class Copier(Autoencoder):
    """Autoencoder that outputs a mixture: `share` of the input, and 1 − `share` of a learned square."""

    def __init__(self, image: Shape, share: float) -> None:
        super().__init__(image)
        self.share = torch.nn.Parameter(torch.tensor(share))
        self.learned = torch.zeros(image)
        self.learned[:, :4, :4] = 1

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return self.share * z + (1 - self.share) * self.learned

    def loss(self, batch: Batch) -> Losses:
        return {"loss": batch.inputs.sum()}


def test_the_identity_copies_all_and_what_ignores_its_input_nothing() -> None:
    for image in ((1, 8, 8), (3, 32, 32)):
        none, half, all_of_it = (reconstruction.identity(Copier(image, share)) for share in (0.0, 0.5, 1.0))
        assert tuple(all_of_it) == tuple(none)
        assert set(none) == set(IDENTITY)
        for kind in ("noise", "photographs"):
            assert all_of_it[f"identity_{kind}"] == pytest.approx(1)
            assert all_of_it[f"unlike_{kind}_mse"] == 0
            assert abs(none[f"identity_{kind}"]) < 0.15
            assert none[f"identity_{kind}"] < half[f"identity_{kind}"] < 1
            assert 0 < half[f"unlike_{kind}_mse"] < none[f"unlike_{kind}_mse"]


@pytest.mark.parametrize("name", VARIANTS.available())
def test_every_variant_is_measured_and_batches_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "UNLIKE", 30)
    model = build(name, IMAGE, PARAMETERS[name]).eval()
    whole, parts = (reconstruction.identity(model, batch_size=size) for size in (30, 7))
    assert whole == pytest.approx(parts, rel=1e-3, abs=1e-4)
    assert all(-1 <= whole[f"identity_{kind}"] <= 1 for kind in ("noise", "photographs"))


def test_large_images_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()

    def noise(count: int, image: Shape, *, seed: int) -> Bytes:
        seen.append(count)
        return np.full((count, *image), seed + 1, np.uint8)

    monkeypatch.setattr(out_of_distribution, "noise", noise)
    monkeypatch.setattr(out_of_distribution, "photographs", noise)
    reconstruction.identity(Copier((3, 1024, 1024), 1.0))
    assert seen == [5, 5]
