"""Comparison of the layers that replace convolutions with torch's own convolutions."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aelab.models.layers import Convolution, Patches, Pointwise, halvings


def _with_gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return [y, x.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (7, 7)])
def test_a_convolution_is_torchs_on_every_grid(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, torchs = Convolution(5, 3), nn.Conv2d(5, 3, 3, padding=1)
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 5, *grid)
    torch.testing.assert_close(_with_gradients(ours, x), _with_gradients(torchs, x))


def test_a_pointwise_layer_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer = Pointwise(5, 3)
    x = torch.randn(4, 5, 2, 7)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight[:, :, None, None], layer.bias))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_patches_are_torchs(size: int) -> None:
    x = torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(Patches(size)(x), F.pixel_unshuffle(x, size))


@pytest.mark.parametrize(("grid", "times"), [((7, 7), 0), ((8, 8), 0), ((9, 9), 0), ((32, 32), 2), ((12, 6), 1)])
def test_grids_are_halved_until_they_are_small(grid: tuple[int, int], times: int) -> None:
    assert halvings(grid) == times
