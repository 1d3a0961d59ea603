"""Properties of every variant, including variants that users add."""

from pathlib import Path

import pytest
import torch

from aelab.models.base import VARIANTS, Autoencoder
from aelab.models.checkpoint import build
from tests.support.toys import IMAGE, PARAMETERS, batch


@pytest.fixture(params=VARIANTS.available())
def model(request: pytest.FixtureRequest) -> Autoencoder:
    torch.manual_seed(0)
    return build(request.param, IMAGE, PARAMETERS[request.param])


def test_reconstructions_are_images(model: Autoencoder, x: torch.Tensor) -> None:
    output = model.eval().reconstruct(x)
    assert output.shape == x.shape
    assert ((output >= 0) & (output <= 1)).all()


def test_a_code_is_what_the_decoder_is_given(model: Autoencoder, x: torch.Tensor) -> None:
    model.eval()
    torch.testing.assert_close(model.decode(model.code_of(x)), model.reconstruct(x))


def test_loss_is_a_finite_number_with_gradients(
    model: Autoencoder, x: torch.Tensor, generator: torch.Generator
) -> None:
    losses = model.loss(batch(x, x, generator))
    assert all(value.shape == () and value.isfinite() for value in losses.values())
    if model.floor:
        return
    losses["loss"].backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


def test_loss_compares_with_the_targets(model: Autoencoder, x: torch.Tensor, generator: torch.Generator) -> None:
    """The denoising criterion: the loss compares the output with the targets, not with the inputs."""
    model.loss(batch(x, x, generator))  # the codebook starts at the outputs of the first training batch
    model.eval()
    state = generator.get_state()
    same = model.loss(batch(x, x, generator))["loss"]
    generator.set_state(state)
    other = model.loss(batch(x, x.flip(0), generator))["loss"]
    assert same != other


def test_all_colour_channels_are_modelled(model: Autoencoder, generator: torch.Generator) -> None:
    name = type(model).__module__.rpartition(".")[2]
    colour = build(name, (3, 12, 16), PARAMETERS[name])
    x = torch.rand(2, 3, 12, 16, generator=generator)
    assert colour.reconstruct(x).shape == x.shape


def test_the_loss_of_an_ae_is_the_squared_error(x: torch.Tensor, generator: torch.Generator) -> None:
    model = build("ae", IMAGE, PARAMETERS["ae"])
    expected = sum((image - model.reconstruct(image[None])[0]).square().sum() for image in x) / len(x)
    torch.testing.assert_close(model.loss(batch(x, x, generator))["loss"], expected)


def test_dae_never_sees_the_clean_image(x: torch.Tensor, generator: torch.Generator) -> None:
    model = build("dae", IMAGE, PARAMETERS["dae"])
    corrupted = torch.zeros_like(x)
    expected = (x - model.reconstruct(corrupted)).square().flatten(1).sum(1).mean()
    torch.testing.assert_close(model.loss(batch(corrupted, x, generator))["loss"], expected)


@pytest.mark.parametrize("name", ["../ae", "no_such", "__init__", "ae;touch x", "AE"])
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(LookupError, match="unknown model"):
        VARIANTS.find(name)


def test_file_without_a_variant_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text('"""Nothing."""\n')
    monkeypatch.setattr("aelab.variants.__path__", [str(tmp_path)])
    with pytest.raises(LookupError, match="exactly one subclass"):
        VARIANTS.find("empty")


@pytest.mark.parametrize("name", ["ae", "dae", "vae", "vqvae"])
def test_training_starts_from_the_mean_colour(name: str, generator: torch.Generator) -> None:
    x = torch.rand(50, 3, 8, 8, generator=generator) * torch.tensor([0.2, 0.6, 1.0]).view(3, 1, 1)
    model = build(name, (3, 8, 8), PARAMETERS[name])
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.start_from(x)
    torch.testing.assert_close(model.reconstruct(x).mean((0, 2, 3)), x.mean((0, 2, 3)))
