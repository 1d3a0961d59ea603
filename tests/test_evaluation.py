import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autoencoders import evaluation, metrics, variants
from autoencoders.base import Autoencoder
from autoencoders.checkpoint import build
from autoencoders.training import as_float
from tests.conftest import IMAGE, PARAMETERS


@pytest.fixture(params=variants.available())
def model(request: pytest.FixtureRequest, x: torch.Tensor, generator: torch.Generator) -> Autoencoder:
    torch.manual_seed(0)
    model = build(request.param, IMAGE, PARAMETERS[request.param])
    model.loss(x, x, generator)
    return model.eval()


def _evaluate(model: Autoencoder, pixels: NDArray[np.uint8], batch_size: int) -> dict[str, float]:
    test = torch.from_numpy(pixels)
    return evaluation.evaluate(model, test, {"dark": test // 2}, test[:10], batch_size=batch_size, seed=0)


def test_means_over_all_images(model: Autoencoder, pixels: NDArray[np.uint8], x: torch.Tensor) -> None:
    values = _evaluate(model, pixels, 64)
    dark = as_float(torch.from_numpy(pixels // 2))
    with torch.no_grad():
        assert values["mse"] == pytest.approx((model.reconstruct(x) - x).square().mean().item(), rel=1e-5)
        assert values["psnr"] == pytest.approx(metrics.psnr(model.reconstruct(x), x).mean().item(), rel=1e-5)
        assert values["ssim"] == pytest.approx(metrics.ssim(model.reconstruct(x), x).mean().item(), rel=1e-5)
        assert values["train_mse"] == pytest.approx(metrics.mse(model.reconstruct(x), x)[:10].mean().item(), rel=1e-5)
        restored = model.reconstruct(dark)
    assert values["denoising_dark"] == pytest.approx((restored - x).square().mean().item(), rel=1e-5)
    assert values["copying_dark"] == pytest.approx((restored - dark).square().mean().item(), rel=1e-5)


def test_batches_do_not_change_what_is_measured(model: Autoencoder, pixels: NDArray[np.uint8]) -> None:
    whole, parts = _evaluate(model, pixels, 64), _evaluate(model, pixels, 7)
    assert whole.keys() == parts.keys()
    for name in whole.keys() - {"neg_elbo", "distortion", "bits_per_dim"}:  # those draw noise batch by batch
        assert whole[name] == pytest.approx(parts[name], rel=1e-4), name


def test_a_metric_is_either_measured_or_undefined_for_a_reason(model: Autoencoder, pixels: NDArray[np.uint8]) -> None:
    values = _evaluate(model, pixels, 64)
    for name in ("neg_elbo", "rate", "distortion", "bits_per_dim", "active_units", "perplexity", "codes_used"):
        assert (name in values) != (name in model.undefined), name


def test_pictures_are_images_in_rows(model: Autoencoder, pixels: NDArray[np.uint8], x: torch.Tensor) -> None:
    figures = evaluation.pictures(model, x[:6], {"dark": x[:6] / 2}, torch.from_numpy(pixels), batch_size=16, seed=0)
    assert {"reconstructions", "denoising", "interpolation"} <= figures.keys()
    for name in ("samples", "traversal"):
        assert (name in figures) != (name in model.undefined), name
    for rows in figures.values():
        assert all(row.shape == (6, *IMAGE) for _, row in rows)


def test_interpolation_ends_at_the_reconstructions(model: Autoencoder, x: torch.Tensor) -> None:
    with torch.no_grad():
        row = evaluation._interpolation(model, x[:4])[0][1]
        torch.testing.assert_close(row[[0, -1]], model.reconstruct(x[:2]))
