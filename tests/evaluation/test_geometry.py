import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aelab.evaluation import geometry
from aelab.evaluation.metric_names import GEOMETRY
from aelab.evaluation.reconstruction import undefined_metrics
from aelab.models.base import VARIANTS, Autoencoder, Batch, Latent, Losses, Shape
from aelab.models.checkpoint import build
from aelab.models.latent import flatten
from tests.support.toys import IMAGE, PARAMETERS, batch

BATCH = 50


class Linear(Autoencoder):
    """z = Wᵀx, x′ = f(Wz), W with orthonormal columns."""

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


class Switch(Linear):
    """Decodes the sign of the first number alone: black or white."""

    def decode(self, z: Tensor) -> Tensor:
        return (z[:, 0] > 0).float().view(-1, 1, 1, 1).expand(-1, *self.image)

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] - 0.5


class Grid(Linear):
    """The same code as a grid and a vector."""

    def encode(self, x: Tensor) -> Latent:
        z = super().encode(x)
        assert isinstance(z, Tensor)
        return z[:, :2].view(-1, 1, 1, 2), z[:, 2:]

    def decode(self, z: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        return super().decode(torch.cat([z[0].flatten(1), z[1]], 1))


class Mixed(Linear):
    """Decodes as if each number of the code were the mean of all."""

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z.mean(1, keepdim=True).expand_as(z))


class Dead(Linear):
    """Decodes nothing of the code."""

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z * 0)


@pytest.fixture(params=[Linear, Grid])
def linear(request: pytest.FixtureRequest) -> Autoencoder:
    model: Autoencoder = request.param(IMAGE).eval()
    return model


def _measure(model: Autoencoder, pixels: NDArray[np.uint8]) -> dict[str, float]:
    return geometry.measure(model.eval(), pixels, pixels, BATCH)


def test_a_linear_pair_is_an_even_dial(linear: Autoencoder, pixels: NDArray[np.uint8]) -> None:
    values = _measure(linear, pixels)
    assert values["jump"] == pytest.approx(1, abs=1e-3)
    assert values["dial"] == pytest.approx(1, abs=1e-4)


def test_a_step_function_is_a_switch(x: Tensor) -> None:
    ends = torch.cat([torch.zeros_like(x[:10]), torch.ones_like(x[:10])])
    assert torch.equal(geometry.jump(Switch(IMAGE), ends, BATCH), torch.full((10,), float(geometry.STEPS)))


def test_a_switch_is_seen_by_its_jump_at_more_steps(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a decoder that rounds, jump grows with the number of steps; of a linear one it does not."""

    class Rounding(Linear):
        def decode(self, z: Tensor) -> Tensor:
            return super().decode((z * 4).round() / 4)

    found = {}
    for steps in (64, 512):
        monkeypatch.setattr(geometry, "STEPS", steps)
        found[steps] = [geometry.jump(kind(IMAGE), x, BATCH).mean().item() for kind in (Linear, Rounding)]
    assert found[512][0] == pytest.approx(found[64][0], rel=1e-2)
    assert found[512][1] > 2 * found[64][1]


def test_dials_that_all_do_the_same_share_the_change(pixels: NDArray[np.uint8]) -> None:
    model = Mixed(IMAGE)
    shares = geometry.dial(model, pixels, BATCH).detach()
    deviation = flatten(model.encode(torch.from_numpy(pixels) / 255)).std(0)
    expected = deviation**-2 / (deviation**-2).sum()
    torch.testing.assert_close(shares.mean(1).sort().values, expected.detach().sort().values)


def test_a_dial_that_moves_nothing_is_none(pixels: NDArray[np.uint8]) -> None:
    values = _measure(Dead(IMAGE), pixels)
    assert values["dial"] == 0
    assert math.isnan(values["jump"])


def test_a_dimension_that_hardly_varies_does_not_count(pixels: NDArray[np.uint8]) -> None:
    class Unused(Linear):
        """Its last number is noise from rounding, blown up by counting in its own standard deviations."""

        def encode(self, x: Tensor) -> Tensor:
            z = x.flatten(1) @ self.w
            return torch.cat([z, 1e-3 * z.square().sum(1, keepdim=True)], 1)

        def decode(self, z: Tensor) -> Tensor:
            return super().decode(z[:, :-1])

    assert geometry.dial(Unused(IMAGE), pixels, BATCH).shape[0] == 4
    assert _measure(Unused(IMAGE), pixels)["dial"] == pytest.approx(1, abs=1e-4)


def test_a_midpoint_is_as_near_as_the_data_that_it_is_in(pixels: NDArray[np.uint8], x: Tensor) -> None:
    """With all midpoints among the data and reconstructions away from it, they are nearer; and the other way round."""
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


@pytest.mark.parametrize("name", VARIANTS.available())
def test_each_is_measured_or_undefined_for_a_reason(
    name: str, pixels: NDArray[np.uint8], x: Tensor, generator: torch.Generator
) -> None:
    model = build(name, IMAGE, PARAMETERS[name], seed=0)
    model.loss(batch(x, x, generator))
    values = _measure(model, pixels)
    for metric in GEOMETRY:
        assert (metric in values) != (metric in undefined_metrics(model)), metric
    assert 1 <= values["jump"] <= geometry.STEPS
    assert values["midpoint"] > 0
    assert 0 <= values.get("dial", 0) <= 1
    assert values == _measure(model, pixels)


def test_a_pair_of_images_is_enough(pixels: NDArray[np.uint8]) -> None:
    assert set(geometry.measure(Linear(IMAGE), pixels[:2], pixels[:1], BATCH)) == set(GEOMETRY)
