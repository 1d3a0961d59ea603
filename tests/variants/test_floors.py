"""Floors: no training, equal results for every seed, and PCA agrees with scikit-learn."""

import math
from typing import Any

import numpy as np
import pytest
import sklearn.decomposition
import torch
from numpy.typing import NDArray

import aelab
from aelab.core.errors import UserError
from aelab.models.base import VARIANTS
from aelab.models.checkpoint import build
from aelab.variants import pca
from tests.support.toys import IMAGE, PARAMETERS

BUDGET = aelab.Budget(steps=2, batch_size=8, learning_rate=0.001)


def fitted(images: NDArray[np.uint8], code: int = 4, seed: int = 0) -> Any:
    model = build("pca", images.shape[1:], {"code": code}, seed=seed)
    assert aelab.train(model, images, images, BUDGET, seed=seed) == {}
    return model


def random_images(count: int, *image: int) -> NDArray[np.uint8]:
    """Random images whose variance differs between directions."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(count, 8)) * np.arange(8, 0, -1) @ rng.normal(size=(8, math.prod(image)))
    return np.rint(128 + 4 * mixed + rng.normal(size=mixed.shape)).clip(0, 255).astype(np.uint8).reshape(count, *image)


@pytest.mark.parametrize("name", VARIANTS.available())
def test_a_floor_is_what_has_no_training(name: str) -> None:
    model = build(name, IMAGE, PARAMETERS[name])
    assert model.floor is (not model.phases())
    assert not model.floor or "samples" in model.undefined


@pytest.mark.parametrize(
    "images",
    [random_images(300, 1, 8, 8), random_images(40, 3, 6, 10), random_images(64, 1, 8, 8), random_images(9, 2, 5, 3)],
    ids=["many", "fewer than numbers", "as many", "few"],
)
def test_pca_is_that_of_scikit_learn(images: NDArray[np.uint8]) -> None:
    model, x = fitted(images), aelab.as_float(images)
    theirs = sklearn.decomposition.PCA(4, svd_solver="full").fit(x.flatten(1).double().numpy())
    z = theirs.transform(x.flatten(1).double().numpy())
    signs = np.sign((z * model.encode(x).detach().numpy()).sum(0))
    np.testing.assert_allclose(model.encode(x).detach().numpy() * signs, z, atol=2e-4)
    restored = theirs.inverse_transform(z).clip(0, 1).reshape(images.shape)
    np.testing.assert_allclose(model.reconstruct(x).detach().numpy(), restored, atol=2e-4)


@pytest.mark.parametrize("images", [random_images(300, 1, 8, 8), random_images(40, 3, 6, 10)], ids=["tall", "wide"])
def test_its_bits_depend_on_no_seed_and_on_no_sign(images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    first = fitted(images).state_dict()
    eigh = torch.linalg.eigh

    class Turned:
        def __init__(self, products: torch.Tensor) -> None:
            self.eigenvectors = -eigh(products).eigenvectors

    monkeypatch.setattr(torch.linalg, "eigh", Turned)
    second = fitted(images, seed=1).state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_images_that_are_all_the_same_have_their_mean() -> None:
    for images in (np.full((64, 1, 4, 4), 51, np.uint8), np.full((8, 1, 4, 4), 51, np.uint8)):
        x = aelab.as_float(images)
        torch.testing.assert_close(fitted(images).reconstruct(x), x)


def test_it_is_fitted_to_as_many_images_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(301, *IMAGE)
    assert build("pca", IMAGE, {"code": 4}).start_images == 2**20
    monkeypatch.setattr(pca, "NUMBERS", 31 * 64)
    chosen = images[np.linspace(0, 300, 31).round().astype(int)]
    torch.testing.assert_close(fitted(images).mean.data, aelab.as_float(chosen).flatten(1).mean(0))


@pytest.mark.parametrize(("code", "count"), [(64, 64), (10, 10), (10, 3), (4, 1)])
def test_a_code_of_more_numbers_than_images_tell_apart_is_refused(code: int, count: int) -> None:
    images = random_images(301, *IMAGE)[:count]
    with pytest.raises(UserError, match=f"code is {code}: {count} images differ in {count - 1} directions"):
        fitted(images, code)
    fitted(random_images(code + 1, *IMAGE), code)


def test_a_code_of_more_numbers_than_an_image_has_is_refused() -> None:
    with pytest.raises(UserError, match="code is 65: must be at most 64, the number of components"):
        aelab.build("pca", IMAGE, {"code": 65})


def test_the_identity_does_nothing() -> None:
    images = random_images(20, 3, 8, 10)
    model: Any = aelab.build("identity", (3, 8, 10), {})
    x = aelab.as_float(images)
    assert aelab.train(model, images, images, BUDGET, seed=0) == {}
    assert torch.equal(model.encode(x), x.flatten(1))
    assert torch.equal(model.reconstruct(x), x)
    values = aelab.evaluate(model, images, {"dark": images // 2})
    done = float(np.square(images / 255 - (images // 2) / 255).mean())
    assert values == {"mse": 0.0, "denoising_dark": pytest.approx(done), "copying_dark": 0.0}
