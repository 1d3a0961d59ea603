import math

import numpy as np
import pytest
import torch

from aelab.evaluation import image_quality
from aelab.models import statistics


def test_mse_and_psnr_of_a_constant_difference() -> None:
    x, y = torch.zeros(2, 1, 8, 8), torch.full((2, 1, 8, 8), 0.1)
    torch.testing.assert_close(image_quality.mse(x, y), torch.full((2,), 0.01))
    torch.testing.assert_close(image_quality.psnr(x, y), torch.full((2,), 20.0))


def test_ssim_of_equal_images_is_one(x: torch.Tensor) -> None:
    torch.testing.assert_close(image_quality.ssim(x, x), torch.ones(len(x)))


def test_ssim_is_equation_13(generator: torch.Generator) -> None:
    a, b = torch.rand(2, 1, 10, 9, generator=generator).double().unbind(0)
    values = []
    for top in range(10 - 6):
        for left in range(9 - 6):
            p, q = (image[0, top : top + 7, left : left + 7].numpy() for image in (a, b))
            covariance = np.cov(p.ravel(), q.ravel())
            numerator = (2 * p.mean() * q.mean() + 0.0001) * (2 * covariance[0, 1] + 0.0009)
            spread = covariance[0, 0] + covariance[1, 1] + 0.0009
            values.append(numerator / ((p.mean() ** 2 + q.mean() ** 2 + 0.0001) * spread))
    assert image_quality.ssim(a[None], b[None]).item() == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 5, 5, 5], 4), ([0, 9, 0, 0], 1), ([1, 1, 0, 0], 2), ([3, 1], math.exp(2 * math.log(2) - 0.75 * math.log(3)))],
)
def test_perplexity_of_known_distributions(counts: list[int], expected: float) -> None:
    assert statistics.perplexity(torch.tensor(counts)) == pytest.approx(expected)


def test_correlation_is_pearsons(generator: torch.Generator) -> None:
    x, y = torch.rand(2, 5, 3, 8, 8, generator=generator)
    expected = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(image_quality.correlation(x, y), expected, atol=1e-5)
    torch.testing.assert_close(image_quality.correlation(x, 0.3 * x + 0.2), torch.ones(5))
    assert image_quality.correlation(x, torch.full_like(x, 0.5)).abs().max() == 0
