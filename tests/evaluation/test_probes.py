import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from aelab.data.pairs import Pairs
from aelab.evaluation import probes
from aelab.models.base import Autoencoder, Batch, Losses
from tests.support.toys import IMAGE, quadrants


class Pixels(Autoencoder):
    """Autoencoder whose code is the image, in two parts."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__(IMAGE)
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :, :4] * self.gain, x[:, :, 4:] * self.gain

    def decode(self, z: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat(z, 2)

    def loss(self, batch: Batch) -> Losses:
        raise NotImplementedError


def accuracies(model: Autoencoder | None = None, *, shuffled: bool = False, batch_size: int = 50) -> dict[str, float]:
    splits = [quadrants(200, seed, shuffled=shuffled) for seed in range(3)]
    return probes.accuracies(model or Pixels(), *splits, batch_size=batch_size)


def test_classes_that_a_code_parts_are_found() -> None:
    assert accuracies() == {"probe_accuracy": 100, "knn_accuracy": 100}


def test_classes_that_have_nothing_to_do_with_the_code_are_not() -> None:
    """Random labels cannot be predicted, unless a probe sees test labels."""
    for value in accuracies(shuffled=True).values():
        assert 10 < value < 40  # chance is 25 %, with a standard deviation of 3 percentage points


def test_both_read_all_of_a_code() -> None:
    """The first part of the code alone does not separate all classes."""

    class Half(Pixels):
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            top, bottom = super().encode(x)
            return top, bottom[:, :, :0]

    assert all(value < 90 for value in accuracies(Half()).values())


@pytest.mark.parametrize("gain", [1e-4, 1e4])
def test_the_scale_of_a_code_does_not_matter(gain: float) -> None:
    assert accuracies(Pixels(gain)) == accuracies()


def test_the_same_again_whatever_the_batches() -> None:
    assert accuracies() == accuracies() == accuracies(batch_size=7)


def test_two_classes_and_few_images() -> None:
    two = Pairs(*(each[[0, 1, 4]] for each in quadrants(8, 0)))
    assert probes.accuracies(Pixels(), two, two, two) == {"probe_accuracy": 100, "knn_accuracy": pytest.approx(200 / 3)}


@pytest.mark.parametrize("inverse_penalty", [0.01, 1.0])
def test_the_regression_is_scikit_learns(inverse_penalty: float) -> None:
    """The search finds the same minimum from random weights."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 6, generator=generator), torch.randint(3, (300,), generator=generator)
    x[:, :3] += torch.eye(3)[y]
    reference = LogisticRegression(C=inverse_penalty, tol=1e-6).fit(x.numpy(), y.numpy())
    start = torch.randn(3, 7, generator=generator)
    found = probes.logistic_regression(torch.cat([x, torch.ones(300, 1)], 1), y, start, inverse_penalty)
    expected = np.column_stack([reference.coef_, reference.intercept_])
    found[:, -1] -= found[:, -1].mean()  # a number that is added to all biases changes no probability
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_large_codes_are_learned_from_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(z: Tensor, y: Tensor) -> probes.Rule:
        seen.append(len(z))
        return before(z, y)

    before = probes.nearest_neighbours
    monkeypatch.setattr(probes, "nearest_neighbours", noted)
    accuracies()
    monkeypatch.setattr(probes, "NUMBERS", 21 * 64)
    accuracies()
    assert seen == [200, 21]


@pytest.mark.parametrize("splits", [[quadrants(8, 0), quadrants(8, 0)], [Pairs(quadrants(8, 0)[0], np.zeros(8, int))]])
def test_what_cannot_be_measured_is_no_number(splits: list[Pairs]) -> None:
    model = Pixels(math.inf if len(splits) > 1 else 1.0)
    values = probes.accuracies(model, splits[0], splits[0], splits[-1])
    assert values.keys() == {"probe_accuracy", "knn_accuracy"}
    assert all(map(math.isnan, values.values()))
