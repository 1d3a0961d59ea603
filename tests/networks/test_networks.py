import contextlib

import pytest
import torch

from aelab.models.base import Shape
from aelab.models.network import NETWORKS, Network
from tests.support.toys import NETWORK_KEYS

IMAGES = [(1, 8, 8), (3, 12, 16), (1, 28, 28), (3, 64, 64)]


def build(name: str, image: Shape = (3, 16, 16), **keys: object) -> Network:
    return NETWORKS.build({"name": name} | NETWORK_KEYS[name] | keys, image)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", NETWORKS.available())
def test_shapes(name: str, image: Shape) -> None:
    network = build(name, image)
    x = torch.rand(2, *image)
    assert network.encoder(5)(x).shape == (2, 5)
    assert network.decoder(5)(torch.rand(2, 5)).shape == x.shape
    assert network.decoder(5, 4)(torch.rand(2, 5)).shape == (2, 4 * image[0], *image[1:])


@pytest.mark.parametrize("downsampling", [2, 4, 8])
@pytest.mark.parametrize("name", ["patches", "conv"])
def test_grids(name: str, downsampling: int) -> None:
    network = build(name, (3, 16, 24), downsampling=downsampling)
    grid = 16 // downsampling, 24 // downsampling
    assert network.grid == grid
    assert network.grid_encoder(6)(torch.rand(2, 3, 16, 24)).shape == (2, 6, *grid)
    assert network.grid_decoder(6)(torch.rand(2, 6, *grid)).shape == (2, 3, 16, 24)
    assert network.grid_decoder(6, 2)(torch.rand(2, 6, *grid)).shape == (2, 6, 16, 24)


def test_a_network_without_a_grid_says_so() -> None:
    with pytest.raises(ValueError, match="the network mlp has no grid to put codes on"):
        _ = build("mlp").grid


@pytest.mark.parametrize(
    ("name", "image", "keys", "sentence"),
    [
        ("patches", (1, 10, 8), {}, "both sides must be multiples of downsampling, 4"),
        ("conv", (1, 10, 8), {}, "both sides must be multiples of downsampling, 4"),
        ("conv", (1, 12, 12), {"downsampling": 6}, "downsampling, 6, must be a power of 2"),
    ],
)
def test_what_does_not_fit_is_a_sentence(name: str, image: Shape, keys: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(name, image, **keys)


@pytest.mark.parametrize("name", NETWORKS.available())
def test_a_decoder_starts_where_it_is_told(name: str) -> None:
    network = build(name)
    decoders = [network.decoder(5)]
    with contextlib.suppress(ValueError):  # not every network has a grid
        decoders += [network.grid_decoder(5)] if network.grid else []
    assert len(decoders) == 2 or name not in {"patches", "conv"}
    codes = [torch.zeros(2, 5), torch.zeros(2, 5, 4, 4)]
    for decoder, z in zip(decoders, codes, strict=False):
        for parameter in decoder.parameters():
            torch.nn.init.zeros_(parameter)
        decoder.start_at(torch.tensor([1.0, -2.0, 3.0]))
        expected = torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1).expand(2, 3, 16, 16)
        torch.testing.assert_close(decoder(z), expected)


@pytest.mark.parametrize("name", ["patches", "conv"])
def test_large_images_put_few_parameters_into_fully_connected_layers(name: str) -> None:
    """At 128×128, fully connected layers on the whole grid would have 16.8 of 16.9 million parameters."""
    network = NETWORKS.build({"name": name, "width": 64}, (3, 128, 128))
    parts = [network.encoder(128), network.decoder(128)]
    linear = [m.weight.numel() for part in parts for m in part.modules() if type(m) is torch.nn.Linear]
    assert sum(linear) <= 2 * 8 * 8 * 64 * 128


def test_the_network_of_the_iwae_paper_can_be_written() -> None:
    network = build("mlp", (1, 28, 28), hidden=[200, 200], activation="tanh")
    sizes = [tuple(p.shape) for p in network.encoder(100).parameters() if p.ndim == 2]
    assert sizes == [(200, 784), (200, 200), (100, 200)]
    sizes = [tuple(p.shape) for p in network.decoder(50).parameters() if p.ndim == 2]
    assert sizes == [(200, 50), (200, 200), (784, 200)]


@pytest.mark.parametrize("name", NETWORKS.available())
def test_gradients_reach_every_parameter(name: str) -> None:
    network = build(name)
    encoder, decoder = network.encoder(5), network.decoder(5)
    decoder(encoder(torch.rand(4, 3, 16, 16))).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for m in (encoder, decoder) for p in m.parameters())
