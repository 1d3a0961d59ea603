import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aelab.evaluation import geometry
from aelab.evaluation.metric_names import GEOMETRY
from aelab.models.base import VARIANTS, Autoencoder, Batch, Latent, Losses, Shape
from aelab.models.checkpoint import build
from tests.support.toys import IMAGE, PARAMETERS

BATCH = 50


class Linear(Autoencoder):
    """Autoencoder with z = Wᵀx and x′ = f(Wz), where W has orthonormal columns."""

    undefined = {}

    def __init__(self, image: Shape, d: int = 4) -> None:
        super().__init__(image)
        w, _ = torch.linalg.qr(torch.randn(math.prod(image), d, generator=torch.Generator().manual_seed(0)))
        self.w = nn.Parameter(w)

    def encode(self, x: Tensor) -> Latent:
        return x.flatten(1) @ self.w

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.w.T).unflatten(1, self.image)

    def loss(self, batch: Batch) -> Losses:
        return {"loss": (batch.targets - self.reconstruct(batch.inputs)).square().mean()}


class Grid(Linear):
    """Autoencoder with the same code as a grid and a vector."""

    def encode(self, x: Tensor) -> Latent:
        z = super().encode(x)
        assert isinstance(z, Tensor)
        return z[:, :2].view(-1, 1, 1, 2), z[:, 2:]

    def decode(self, z: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        return super().decode(torch.cat([z[0].flatten(1), z[1]], 1))


def _measure(model: Autoencoder, pixels: NDArray[np.uint8]) -> dict[str, float]:
    return geometry.measure(model.eval(), pixels, pixels, BATCH)


def test_a_midpoint_is_as_near_as_the_data_that_it_is_in(pixels: NDArray[np.uint8], x: Tensor) -> None:
    """Midpoint distance equals the ratio of distances from `torch.cdist`."""
    model = Linear(IMAGE)
    z, half = model.encode(x), len(x) // 2
    assert isinstance(z, Tensor)
    with torch.no_grad():
        middles = model.decode((z[:half] + z[half:]) / 2)
        distance = torch.cdist(middles.flatten(1), x.flatten(1)).square().min(1).values
        torch.testing.assert_close(geometry.nearest(middles, pixels, 7), distance)
        ends = geometry.nearest(model.reconstruct(x), pixels, BATCH)
        assert geometry.midpoint(model, x, pixels, BATCH).item() == pytest.approx(
            (distance.mean() / ends.mean()).item(), rel=1e-4
        )


def test_a_code_of_several_tensors_has_the_same_midpoints(pixels: NDArray[np.uint8]) -> None:
    assert _measure(Grid(IMAGE), pixels) == pytest.approx(_measure(Linear(IMAGE), pixels))


@pytest.mark.parametrize("name", VARIANTS.available())
def test_every_variant_is_measured(name: str, pixels: NDArray[np.uint8]) -> None:
    model = build(name, IMAGE, PARAMETERS[name], seed=0)
    values = _measure(model, pixels)
    assert values.keys() == set(GEOMETRY)
    assert values["midpoint"] > 0
    assert values == _measure(model, pixels)


def test_a_pair_of_images_is_enough(pixels: NDArray[np.uint8]) -> None:
    assert set(geometry.measure(Linear(IMAGE), pixels[:2], pixels[:1], BATCH)) == set(GEOMETRY)
