import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelab.evaluation import disentanglement
from aelab.evaluation.metric_names import FACTORS
from aelab.evaluation.reconstruction import undefined_metrics
from aelab.ingest import shapes
from aelab.models.base import VARIANTS, Autoencoder, Batch, Losses
from tests.support.toys import IMAGE, toy_model

Code = NDArray[np.float64]
FACTOR_VALUES = shapes.draw(2000)
RNG = np.random.default_rng(1)


def own(noise: float = 0.0) -> Code:
    """Code in which each dimension is one factor."""
    z = (FACTOR_VALUES - FACTOR_VALUES.mean(0)) / FACTOR_VALUES.std(0)
    return z + noise * RNG.normal(size=z.shape)


def rotated(z: Code) -> Code:
    q, _ = np.linalg.qr(RNG.normal(size=(z.shape[1],) * 2))
    return z @ q


def beside(z: Code, scale: float = 1.0, count: int = 27) -> Code:
    """Add dimensions that are independent of all factors."""
    return np.hstack([z, scale * RNG.normal(size=(len(z), count))])


def both(z: Code) -> tuple[float, float]:
    return disentanglement.mig(z, FACTOR_VALUES), disentanglement.dci(z, FACTOR_VALUES)


@pytest.mark.parametrize("code", [own(), beside(own()), beside(own(), 0.0), np.tanh(2 * own()), beside(own(0.05))])
def test_a_code_that_is_the_factors_is_disentangled(code: Code) -> None:
    assert min(both(code)) > 0.7


@pytest.mark.parametrize("code", [own(), beside(own(), 1.0, 3), beside(own(), 0.001, 3), np.tanh(2 * own())])
def test_a_rotation_mixes_the_factors(code: Code) -> None:
    """A rotation lowers both metrics, but hardly changes a metric of the round trip through decoder and encoder."""
    before, after = both(code), np.mean([both(rotated(code)) for _ in range(3)], 0)
    assert after[0] < 0.25
    assert after[1] < 0.5
    assert all(one > 2 * other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z[:, ::-1],
        lambda z: np.roll(z, 2, axis=1),
        lambda z: z * np.logspace(-6, 6, z.shape[1]),
        lambda z: -z,
        lambda z: z + np.arange(z.shape[1]),
    ],
)
@pytest.mark.parametrize("code", [own(0.3), rotated(own())])
def test_order_scale_sign_and_shift_change_nothing(change: Callable[[Code], Code], code: Code) -> None:
    assert both(change(code)) == pytest.approx(both(code), abs=0.02)


def test_a_factor_in_two_dimensions_is_no_gap_but_has_them_to_itself() -> None:
    mig, dci = both(np.hstack([own(), own()]))
    assert mig == pytest.approx(0, abs=1e-6)
    assert dci > 0.95


@pytest.mark.parametrize("code", [RNG.normal(size=(2000, 8)), np.zeros((2000, 8)), np.zeros((2000, 1))])
def test_a_code_that_says_nothing_is_not_disentangled(code: Code) -> None:
    mig, dci = both(code)
    assert mig < 0.02
    assert dci < 0.5


def test_mig_of_one_dimension_is_its_share_of_information() -> None:
    """A dimension that tells two pairs of a factor's four values apart has half of the entropy."""
    v = np.arange(4000, dtype=np.uint8)[:, None] % 4
    assert disentanglement.mig((v // 2).astype(float), v) == pytest.approx(0.5, abs=1e-3)


class Pixels(Autoencoder):
    """Autoencoder whose code is the first five pixels of the image."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__(IMAGE)
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5] * self.gain

    def decode(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def loss(self, batch: Batch) -> Losses:
        raise NotImplementedError


def images() -> NDArray[np.uint8]:
    found = np.zeros((len(FACTOR_VALUES), *IMAGE), np.uint8)
    found.reshape(len(found), -1)[:, :5] = FACTOR_VALUES
    return found


def test_a_model_is_measured_on_its_codes() -> None:
    measured = disentanglement.measure(Pixels(), images(), FACTOR_VALUES, 100)
    assert measured.keys() == set(FACTORS)
    assert min(measured.values()) > 0.9
    wrong = disentanglement.measure(Pixels(), images(), np.roll(FACTOR_VALUES, 1, axis=0), 100)
    assert wrong["mig"] < 0.05
    assert measured == disentanglement.measure(Pixels(), images(), FACTOR_VALUES, 7)


def test_codes_that_are_not_finite_give_no_number() -> None:
    assert all(map(math.isnan, disentanglement.measure(Pixels(math.inf), images(), FACTOR_VALUES, 100).values()))


@pytest.mark.parametrize("name", VARIANTS.available())
def test_every_variant_with_directions_is_measured(name: str, pixels: NDArray[np.uint8]) -> None:
    model = toy_model(name)
    assert ("mig" in undefined_metrics(model)) == ("direction" in model.undefined)
    values = disentanglement.measure(model, pixels, FACTOR_VALUES[: len(pixels)], 20)
    assert all(0 <= value <= 1 for value in values.values())
