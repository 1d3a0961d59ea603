import math

import pytest
import torch

from aelab.models.checkpoint import build
from aelab.variants.vqvae import VQVAE
from tests.support.toys import IMAGE, PARAMETERS, batch


@pytest.fixture
def model(x: torch.Tensor, generator: torch.Generator) -> VQVAE:
    """A VQ-VAE after one training batch for its codebook."""
    torch.manual_seed(0)
    model = build("vqvae", IMAGE, PARAMETERS["vqvae"])
    assert isinstance(model, VQVAE)
    model.loss(batch(x, x, generator))
    return model.eval()


def test_loss_is_equation_3(model: VQVAE, x: torch.Tensor, generator: torch.Generator) -> None:
    losses = model.loss(batch(x, x, generator))
    quantized = model.quantizer(model.encode(x), generator)
    distortion = -model.likelihood.log_prob(model.decoder(quantized.z_q), x).mean()
    expected = distortion + quantized.codebook_loss + 0.25 * quantized.commitment_loss
    torch.testing.assert_close(losses["loss"], expected)


def test_prior_learns_nothing_with_the_autoencoder(model: VQVAE, x: torch.Tensor, generator: torch.Generator) -> None:
    model.loss(batch(x, x, generator))["loss"].backward()
    assert all(parameter.grad is None for parameter in model.prior.parameters())
    assert all(parameter.grad is not None for parameter in model.decoder.parameters())


def test_measures_use_of_the_codebook_and_both_priors(
    model: VQVAE, x: torch.Tensor, generator: torch.Generator
) -> None:
    with torch.no_grad():
        metrics = model.measure([x[:40], x[40:]], generator)
    counts = model.code_counts([x])
    assert counts.sum().item() == 64 * 2 * 2
    assert metrics["codes_used"] == (counts > 0).sum().item()
    assert 1 <= metrics["perplexity"] <= metrics["codes_used"] + 1e-6
    assert metrics["rate_uniform"] == pytest.approx(4 * math.log(16))
    assert metrics["neg_elbo"] == pytest.approx(metrics["rate"] + metrics["distortion"])
    assert metrics["neg_elbo_uniform"] - metrics["neg_elbo"] == pytest.approx(metrics["rate_uniform"] - metrics["rate"])


def test_decoding_quantises(model: VQVAE, x: torch.Tensor) -> None:
    z_e = model.encode(x)
    nearest = model.quantizer.look_up(model.quantizer.quantise(z_e))
    assert torch.equal(model.decode(z_e), model.decode(nearest))


def test_samples_are_images(model: VQVAE, generator: torch.Generator) -> None:
    with torch.no_grad():
        samples = model.sample(5, generator)
    assert samples.shape == (5, *IMAGE)
    assert ((samples >= 0) & (samples <= 1)).all()


def test_colour_images_of_128_pixels_get_a_grid_of_32_by_32(generator: torch.Generator) -> None:
    model = build("vqvae", (3, 128, 128), PARAMETERS["vqvae"] | {"likelihood": "logistic"})
    assert isinstance(model, VQVAE)
    x = torch.rand(2, 3, 128, 128, generator=generator)
    assert model.loss(batch(x, x, generator))["loss"].isfinite()
    assert model.indices(x).shape == (2, 32, 32)
    assert model.reconstruct(x).shape == x.shape
