import math

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from aelab.evaluation.fidelity import compare, covered, frechet, radii


def points(count: int, size: int, seed: int = 0) -> Tensor:
    """Points with mean 0 and the identity as covariance, exact up to rounding."""
    drawn = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    centred = drawn - drawn.mean(0)
    return centred @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(centred.T))).T


def test_frechet_is_the_closed_form_for_axis_aligned_gaussians() -> None:
    mean, deviation = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.5, 2.0, 0.0]).double()
    other = points(70, 3, seed=1) * deviation + mean
    expected = (mean.square().sum() + (deviation - 1).square().sum()).item()
    assert frechet(points(50, 3), other) == pytest.approx(expected, rel=1e-6)


def test_frechet_is_the_textbook_formula_for_any_gaussians(generator: torch.Generator) -> None:
    a, b = (points(60, 4, seed) @ torch.randn(4, 4, generator=generator).double() for seed in (1, 2))
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    cross = sqrtm((cov_a @ cov_b).numpy()).real.trace()
    expected = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    assert frechet(a, b) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)


def test_frechet_to_itself_is_0_and_grows_with_a_shift() -> None:
    a = points(40, 5)
    distances = [frechet(a, a + shift) for shift in (0.0, 0.1, 1.0, 3.0)]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances == sorted(distances)
    assert distances[3] == pytest.approx(5 * 9, rel=1e-6)


def test_frechet_of_fewer_points_than_dimensions_is_finite() -> None:
    assert frechet(torch.eye(4, 10), torch.eye(4, 10) + 1) == pytest.approx(10, rel=1e-5)


def two_modes(seed: int, count: int = 100) -> Tensor:
    """Half of the points around −10, half around 10."""
    drawn = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn + torch.where(torch.arange(count) < count // 2, -10.0, 10.0).unsqueeze(1)


def test_equal_sets_cover_each_other() -> None:
    values = compare(two_modes(0), two_modes(0))
    assert values["sample_precision"] == values["sample_recall"] == 1


def test_a_lost_mode_costs_recall_and_no_precision() -> None:
    whole = compare(two_modes(1), two_modes(0))
    lost = compare(two_modes(1, 200)[:100], two_modes(0))
    assert min(whole["sample_precision"], whole["sample_recall"]) > 0.8
    assert lost["sample_recall"] <= 0.5
    assert lost["sample_precision"] > 0.8
    assert lost["frechet"] > 10 * whole["frechet"]


def test_scattered_samples_cost_precision() -> None:
    """Samples far from the images lower precision, not recall: each image still has similar samples in its mode."""
    samples = two_modes(1)
    samples[::2] += 1000 * torch.randn(50, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = compare(samples, two_modes(0))
    assert values["sample_precision"] == pytest.approx(0.5, abs=0.1)
    assert values["sample_recall"] > 0.8


def test_a_ball_reaches_to_the_third_nearest_other_point() -> None:
    points = torch.tensor([0.0, 1, 2, 3, 100]).unsqueeze(1)
    reach = radii(points)
    assert reach.tolist() == [3, 2, 2, 3, 99]
    far = torch.arange(4.0).unsqueeze(1) * 1000
    for others, expected in (([-3.0, -2.9, 199.0, 1.5], 1), ([-3.1, 199.1, 5000.0, -5000.0], 0)):
        assert covered(torch.tensor(others).unsqueeze(1), points, reach)[0] == expected
    assert covered(far, points + 1001, reach)[1] == 1
    assert covered(far, points - 9000, reach)[1] == 0


def test_radii_that_are_known_change_nothing() -> None:
    images = two_modes(0)
    assert compare(two_modes(1), images, radii(images)) == compare(two_modes(1), images)


def test_many_points_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compare(two_modes(1), two_modes(0))
    monkeypatch.setattr("aelab.evaluation.fidelity.ROWS", 7)
    assert compare(two_modes(1), two_modes(0)) == pytest.approx(before)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_features_that_are_no_numbers_give_none(odd: float) -> None:
    samples = two_modes(1)
    samples[3, 1] = odd
    assert all(map(math.isnan, compare(samples, two_modes(0)).values()))
