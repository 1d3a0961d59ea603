"""Anomaly scores of every variant, and their percentiles among validation images."""

import json
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelab.core.tensors import as_float
from aelab.evaluation import anomaly, out_of_distribution, reconstruction
from aelab.evaluation.metric_names import ANOMALY, NEAREST, PIXELS
from aelab.models.base import VARIANTS
from aelab.models.latent import flatten
from tests.support.toys import IMAGE, quadrants, toy_model

Pixels = NDArray[np.uint8]


@pytest.mark.parametrize("variant", VARIANTS.available())
def test_every_variant_has_the_scores_that_it_defines(variant: str, pixels: Pixels) -> None:
    model = toy_model(variant)
    found = anomaly.of_split(model, pixels, batch_size=10)
    assert list(found) == [name for name, need in ANOMALY.items() if need not in model.undefined]
    assert all(each.shape == (len(pixels),) and each.isfinite().all() for each in found.values())
    measured = reconstruction.evaluate(model, pixels, batch_size=10)
    for name in found.keys() - {"codebook_distance"}:  # the report has no metric of this name
        torch.testing.assert_close(found[name], measured.images[name], rtol=1e-4, atol=1e-5)
        assert float(found[name].double().mean()) == pytest.approx(measured[name], rel=1e-4)


def test_the_distance_to_the_codebook_is_squared_and_summed(x: Tensor) -> None:
    model = toy_model("vqvae")
    (found,) = anomaly.scores(model, x[:5], torch.Generator(), ["codebook_distance"]).values()
    with torch.no_grad():
        z_e, z_q = model.encode(x[:5]), model.code_of(x[:5])
    expected = [float(((a - b) ** 2).sum()) for a, b in zip(z_e, z_q, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_is_known_is_not_computed_again(pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    model, known = toy_model("vae"), {name: torch.zeros(64) for name in ("mse", "neg_elbo", "rate")}
    monkeypatch.setattr(type(model), "reconstruct", None)
    assert all(not each.any() for each in anomaly.of_split(model, pixels, known).values())


def test_a_percentile_is_the_share_that_is_lower() -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    table = json.loads(json.dumps(anomaly.reference({"mse": values, "rate": torch.full((5000,), math.nan)})))
    assert table["images"] == 5000
    assert list(table["scores"]) == ["mse"]
    assert len(table["scores"]["mse"]) == anomaly.KEPT
    asked = torch.tensor([-9.0, -1.0, 0.0, 2.0, 9.0])
    expected = [100 * float((values < each).float().mean()) for each in asked]
    np.testing.assert_allclose(anomaly.percentile(asked, table["scores"]["mse"]), expected, atol=0.15)


def test_the_nearest_code_is_the_nearest(pixels: Pixels) -> None:
    model, train, few = toy_model("ae"), pixels[:40], pixels[40:50]
    (found,) = out_of_distribution.nearest(model, train, [few], batch_size=7)
    with torch.no_grad():
        learned, asked = (flatten(model.encode(as_float(each))) for each in (train, few))
    expected = (asked[:, None] - learned).norm(dim=2).amin(1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_of_raw_pixels_there_are_the_floors_alone(pixels: Pixels) -> None:
    """The identity has no reconstruction error, so an MSE of 0 would be meaningless."""
    strange = np.random.default_rng(0).integers(0, 256, (9, *IMAGE), np.uint8)
    found = out_of_distribution.of_two(toy_model("identity"), pixels[:20], strange, pixels[20:], known={})
    assert set(found) == {*PIXELS, NEAREST}
    assert all(each.shape == (29,) for each in found.values())
    images = np.concatenate([pixels[:20], strange])
    np.testing.assert_allclose(found["intensity"], images.mean((1, 2, 3)) / 255, rtol=1e-5)
    distances = np.linalg.norm((images[:, None].astype(float) - pixels[20:]).reshape(29, 44, -1), axis=2).min(1) / 255
    np.testing.assert_allclose(found[NEAREST], distances, atol=1e-3)
    assert found["png"][20:].min() > found["png"][:20].max()  # PNG cannot compress noise


def test_noise_is_told_from_what_was_learned() -> None:
    """Noise is separated from images of quadrants, but other images of quadrants are not."""
    images, again = quadrants(120, 0).inputs, quadrants(60, 1).inputs
    noise = np.random.default_rng(0).integers(0, 256, (60, *IMAGE), np.uint8)
    model = toy_model("pca")
    model.start_from(as_float(images))
    for strange, told in ((noise, True), (again, False)):
        found = out_of_distribution.of_two(model, images[:60], strange, images[60:], known={})
        lower = (found["mse"][:60, None] < found["mse"][60:]).float().mean()
        assert lower > 0.95 if told else 0.2 < lower < 0.8
