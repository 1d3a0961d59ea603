import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aelab.core.tensors import as_float
from aelab.evaluation import image_quality, reconstruction
from aelab.models.base import VARIANTS, Autoencoder, Batch, Losses, Shape
from aelab.models.checkpoint import build
from pipeline.common import params
from pipeline.stages import evaluate
from tests.support.parameters import with_value
from tests.support.toys import IMAGE, PARAMETERS, batch

DRAWN = {"neg_elbo", "neg_elbo_error", "rate", "distortion", "bits_per_dim"}  # differ with the batch size: z is drawn


@pytest.fixture(params=VARIANTS.available())
def model(request: pytest.FixtureRequest, x: torch.Tensor, generator: torch.Generator) -> Autoencoder:
    torch.manual_seed(0)
    model = build(request.param, IMAGE, PARAMETERS[request.param])
    model.loss(batch(x, x, generator))
    return model.eval()


def _evaluate(model: Autoencoder, pixels: NDArray[np.uint8], batch_size: int) -> dict[str, float]:
    return reconstruction.evaluate(model, pixels, {"dark": pixels // 2}, batch_size=batch_size, seed=0)


def test_means_over_all_images(model: Autoencoder, pixels: NDArray[np.uint8], x: torch.Tensor) -> None:
    values = _evaluate(model, pixels, 64)
    dark = as_float(torch.from_numpy(pixels // 2))
    with torch.no_grad():
        assert values["mse"] == pytest.approx((model.reconstruct(x) - x).square().mean().item(), rel=1e-5)
        if "reconstruction" not in model.undefined:
            assert values["psnr"] == pytest.approx(image_quality.psnr(model.reconstruct(x), x).mean().item(), rel=1e-5)
            assert values["ssim"] == pytest.approx(image_quality.ssim(model.reconstruct(x), x).mean().item(), rel=1e-5)
        some = reconstruction.reconstruction_error(model, pixels[:10])
        assert some == pytest.approx(image_quality.mse(model.reconstruct(x), x)[:10].mean().item(), rel=1e-5)
        restored = model.reconstruct(dark)
    assert values["denoising_dark"] == pytest.approx((restored - x).square().mean().item(), rel=1e-5)
    assert values["copying_dark"] == pytest.approx((restored - dark).square().mean().item(), rel=1e-5)


def test_errors_by_noise_are_means_over_evenly_spread_images(
    model: Autoencoder, pixels: NDArray[np.uint8], x: torch.Tensor
) -> None:
    chosen = np.linspace(0, len(pixels) - 1, 5).round().astype(int)
    noisy = {"dark": pixels // 2, "clean": pixels}
    values = reconstruction.denoising(model, pixels, noisy, count=5, batch_size=2)
    with torch.no_grad():
        restored = model.reconstruct(as_float(torch.from_numpy(pixels[chosen] // 2)))
    assert values["denoising_dark"] == pytest.approx((restored - x[chosen]).square().mean().item(), rel=1e-5)
    all_of_them = reconstruction.denoising(model, pixels, noisy, count=10**6)
    assert all_of_them["denoising_clean"] == pytest.approx(reconstruction.reconstruction_error(model, pixels), rel=1e-6)
    assert list(values) == list(all_of_them) == ["denoising_dark", "denoising_clean"]


def test_batches_do_not_change_what_is_measured(model: Autoencoder, pixels: NDArray[np.uint8]) -> None:
    whole, parts = _evaluate(model, pixels, 64), _evaluate(model, pixels, 7)
    assert whole.keys() == parts.keys()
    for name in whole.keys() - DRAWN:
        assert whole[name] == pytest.approx(parts[name], rel=1e-4), name


def test_a_metric_is_either_measured_or_undefined_for_a_reason(model: Autoencoder, pixels: NDArray[np.uint8]) -> None:
    values = _evaluate(model, pixels, 64)
    for name in ("neg_elbo", "rate", "distortion", "bits_per_dim", "active_units", "perplexity", "codes_used"):
        assert (name in values) != (name in reconstruction.undefined_metrics(model)), name


def test_pictures_are_images_in_rows(model: Autoencoder, pixels: NDArray[np.uint8], x: torch.Tensor) -> None:
    figures = reconstruction.pictures(model, x[:6], {"dark": x[:6] / 2}, pixels, batch_size=16, seed=0)
    assert {"reconstructions", "denoising", "interpolation"} <= figures.keys()
    for name in ("samples", "traversal"):
        assert (name in figures) != (name in reconstruction.undefined_metrics(model)), name
    left = figures.pop("reconstructions")
    assert [row.shape for _, row in left] == [(10, *IMAGE)]
    torch.testing.assert_close(left[0][1], torch.cat([x[:5], model.reconstruct(x[:5])]))
    for rows in figures.values():
        assert all(row.shape == (6, *IMAGE) for _, row in rows)


def test_interpolation_ends_at_the_reconstructions(model: Autoencoder, x: torch.Tensor) -> None:
    with torch.no_grad():
        row = reconstruction._interpolation(model, x[:4])[0][1]
        torch.testing.assert_close(row[[0, -1]], model.reconstruct(x[:2]))


class TwoLayers(Autoencoder):
    """Autoencoder with a code of two tensors: the means of the left and the right half, and the mean of the image."""

    undefined = {"samples": "a toy", "codebook": "a toy"}

    def __init__(self, image: Shape) -> None:
        super().__init__(image)
        self.gain = torch.nn.Parameter(torch.ones(()))

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        halves = torch.stack([half.flatten(1).mean(1) for half in x.chunk(2, 3)], 1)
        return halves * self.gain, halves.mean(1, keepdim=True)

    def decode(self, z: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        halves, mean = z
        rows = ((halves + mean) / 2).repeat_interleave(4, 1)[:, None, None]
        return rows.expand(-1, 1, 8, -1)

    def loss(self, batch: Batch) -> Losses:
        return {"loss": (batch.targets - self.reconstruct(batch.inputs)).square().mean()}


def test_a_latent_may_be_several_tensors(pixels: NDArray[np.uint8], x: torch.Tensor) -> None:
    model = TwoLayers(IMAGE).eval()
    figures = reconstruction.pictures(model, x[:6], {}, pixels, batch_size=16, seed=0)
    assert figures["interpolation"][0][1].shape == (6, *IMAGE)
    assert sorted(label for label, _ in figures["traversal"]) == ["z0", "z1", "z2"]
    assert reconstruction.evaluate(model, pixels)["mse"] > 0


@pytest.mark.parametrize(
    ("levels", "drawn"),
    [([0.5], [0.5]), ([0.3, 0.1, 0.2], [0.1, 0.2, 0.3]), ([0.1, 0.2, 0.3, 0.4], [0.2, 0.4]),
     ([0.125, 0.25, 0.375, 0.5, 0.625, 0.75], [0.25, 0.5, 0.75])],
)  # fmt: skip
def test_the_figure_shows_a_few_levels_of_each_kind(levels: list[float], drawn: list[float]) -> None:
    found = evaluate._drawn(params.check(with_value("corruption.test", {"masking": levels, "gaussian": [0.7]})))
    assert found == [*(f"masking-{level}" for level in drawn), "gaussian-0.7"]
