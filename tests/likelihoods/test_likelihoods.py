import math

import pytest
import torch
from torch.distributions import Bernoulli as TorchBernoulli

from aelab.likelihoods.bernoulli import Bernoulli
from aelab.likelihoods.logistic import Logistic
from aelab.models.likelihood import LIKELIHOODS, Likelihood, bits_per_dim
from tests.support.toys import LIKELIHOOD_SECTIONS


def test_bernoulli_of_binary_pixels(generator: torch.Generator) -> None:
    logits = torch.randn(3, 1, 4, 4, generator=generator)
    x = (torch.rand(3, 1, 4, 4, generator=generator) > 0.5).float()
    expected = TorchBernoulli(logits=logits).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(Bernoulli().log_prob(logits, x), expected)


def test_bernoulli_of_grayscale_is_the_mean_over_binarisations(generator: torch.Generator) -> None:
    logits, x = torch.randn(1, 1, 2, 2, generator=generator), torch.rand(1, 1, 2, 2, generator=generator)
    binary = torch.bernoulli(x.expand(50_000, -1, -1, -1), generator=generator)
    sampled = Bernoulli().log_prob(logits.expand_as(binary), binary).mean()
    torch.testing.assert_close(Bernoulli().log_prob(logits, x)[0], sampled, atol=0.02, rtol=0)


@pytest.mark.parametrize("log_scale", [-6.0, -3.0, 0.0])
@pytest.mark.parametrize("logit", [-8.0, 0.3, 8.0])
def test_logistic_masses_sum_to_one(log_scale: float, logit: float) -> None:
    likelihood = Logistic()
    torch.nn.init.constant_(likelihood.log_scale, log_scale)
    values = (torch.arange(256) / 255).view(-1, 1, 1, 1)
    masses = likelihood.log_prob(torch.full_like(values, logit), values).exp()
    assert masses.sum().item() == pytest.approx(1, abs=1e-3)


def test_logistic_far_from_its_location_has_finite_gradients() -> None:
    likelihood = Logistic()
    logits = torch.tensor([-30.0, 30.0]).view(2, 1, 1, 1).requires_grad_()
    likelihood.log_prob(logits, torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_uniform_over_256_values_is_8_bits() -> None:
    assert bits_per_dim(12 * math.log(256), (3, 2, 2)) == pytest.approx(8)


@pytest.fixture(params=LIKELIHOODS.available())
def likelihood(request: pytest.FixtureRequest) -> Likelihood:
    return LIKELIHOODS.build(LIKELIHOOD_SECTIONS[request.param])


def test_samples_have_the_mean(likelihood: Likelihood, generator: torch.Generator) -> None:
    output = torch.randn(1, 3 * likelihood.channels, 1, 2, generator=generator) * 2
    samples = likelihood.sample(output.expand(20_000, -1, -1, -1), generator)
    assert likelihood.pixels == "continuous" or ((samples >= 0) & (samples <= 1)).all()
    torch.testing.assert_close(samples.mean(0), likelihood.mean(output)[0], atol=0.01, rtol=0)


def test_output_for_a_mean_gives_about_that_mean(likelihood: Likelihood) -> None:
    mean = torch.tensor([0.1, 0.5, 0.9])
    output = likelihood.output_for(mean).view(1, -1, 1, 1)
    torch.testing.assert_close(likelihood.mean(output).flatten(), mean, atol=0.03, rtol=0)


@pytest.mark.parametrize("log_scale", [-6.0, -3.0, -1.0])
@pytest.mark.parametrize("logit", [-4.0, 0.3, 3.0])
def test_mean_of_the_logistic_is_that_of_its_masses_and_not_its_location(log_scale: float, logit: float) -> None:
    likelihood = Logistic()
    torch.nn.init.constant_(likelihood.log_scale, log_scale)
    values = (torch.arange(256) / 255).view(-1, 1, 1, 1)
    masses = likelihood.log_prob(torch.full_like(values, logit), values).exp()
    mean = likelihood.mean(torch.full((1, 1, 1, 1), logit)).item()
    assert mean == pytest.approx((masses * values.flatten()).sum().item(), abs=0.5 / 255)
    if log_scale == -1.0 and logit != 0.3:  # wide and near 0 or 1: a tail counts as black or white
        assert abs(mean - torch.tensor(logit).sigmoid().item()) > 0.02
