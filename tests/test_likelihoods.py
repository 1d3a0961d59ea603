import math

import pytest
import torch
from torch.distributions import Bernoulli as TorchBernoulli

from autoencoders.modules.likelihoods import Bernoulli, Logistic, bits_per_dim


def test_bernoulli_of_binary_pixels(generator: torch.Generator) -> None:
    logits = torch.randn(3, 1, 4, 4, generator=generator)
    x = (torch.rand(3, 1, 4, 4, generator=generator) > 0.5).float()
    expected = -TorchBernoulli(logits=logits).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(Bernoulli().nll(logits, x), expected)


def test_bernoulli_of_grayscale_is_the_mean_over_binarisations(generator: torch.Generator) -> None:
    logits, x = torch.randn(1, 1, 2, 2, generator=generator), torch.rand(1, 1, 2, 2, generator=generator)
    binary = torch.bernoulli(x.expand(50_000, -1, -1, -1), generator=generator)
    sampled = Bernoulli().nll(logits.expand_as(binary), binary).mean()
    torch.testing.assert_close(Bernoulli().nll(logits, x)[0], sampled, atol=0.02, rtol=0)


@pytest.mark.parametrize("log_scale", [-6.0, -3.0, 0.0])
@pytest.mark.parametrize("logit", [-8.0, 0.3, 8.0])
def test_logistic_masses_sum_to_one(log_scale: float, logit: float) -> None:
    likelihood = Logistic()
    torch.nn.init.constant_(likelihood.log_scale, log_scale)
    values = (torch.arange(256) / 255).view(-1, 1, 1, 1)
    masses = likelihood.nll(torch.full_like(values, logit), values).neg().exp()
    assert masses.sum().item() == pytest.approx(1, abs=1e-3)


def test_logistic_far_from_its_location_has_finite_gradients() -> None:
    likelihood = Logistic()
    logits = torch.tensor([-30.0, 30.0]).view(2, 1, 1, 1).requires_grad_()
    likelihood.nll(logits, torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_uniform_over_256_values_is_8_bits() -> None:
    assert bits_per_dim(12 * math.log(256), (3, 2, 2)) == pytest.approx(8)
