import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from aelab.models.prior import PRIORS, Prior, log_normal, reparameterise
from aelab.priors.layer import Layer
from aelab.priors.mixture import Mixture
from aelab.priors.standard import StandardNormal
from tests.support.toys import PRIOR_SECTIONS


@pytest.fixture(params=PRIORS.available())
def prior(request: pytest.FixtureRequest) -> Prior:
    torch.manual_seed(0)
    return PRIORS.build(PRIOR_SECTIONS[request.param], 2)


def test_density_integrates_to_one(prior: Prior, generator: torch.Generator) -> None:
    """Importance sampling from a wide Gaussian; an unbiased estimate of the density also integrates to 1."""
    wide = torch.tensor(2 * math.log(3.0))
    z = 3 * torch.randn(200_000, 2, generator=generator)
    with torch.no_grad():
        weights = (prior.log_prob(z, generator) - log_normal(z, torch.zeros(()), wide)).exp()
    assert weights.mean().item() == pytest.approx(1, abs=0.03)


def test_samples_have_that_density(prior: Prior, generator: torch.Generator) -> None:
    """E_p[z] and E_p[z²] from samples, compared with the same moments from the density."""
    with torch.no_grad():
        samples = prior.sample(100_000, generator)
        z = 3 * torch.randn(400_000, 2, generator=generator)
        log_wide = log_normal(z, torch.zeros(()), torch.tensor(2 * math.log(3.0)))
        weights = (prior.log_prob(z, generator) - log_wide).exp().unsqueeze(1)
    torch.testing.assert_close(samples.mean(0), (weights * z).mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(samples.square().mean(0), (weights * z.square()).mean(0), atol=0.15, rtol=0)


def test_shapes_go_through(prior: Prior, generator: torch.Generator) -> None:
    assert prior.log_prob(torch.zeros(4, 7, 2), generator).shape == (4, 7)
    assert prior.sample(5, generator).shape == (5, 2)


def test_kl_at_samples_of_q_is_the_kl(prior: Prior, generator: torch.Generator) -> None:
    """The mean over draws is not negative, and is 0 for q = p where p is a Gaussian."""
    mean, log_variance = torch.tensor([[0.5, -1.0]]).expand(20_000, -1), torch.tensor([[-1.0, 0.5]]).expand(20_000, -1)
    z = reparameterise(mean, log_variance, generator)
    with torch.no_grad():
        kl = prior.kl(mean, log_variance, z, generator).mean()
        estimate = Prior.kl(prior, mean, log_variance, z, generator).mean()
    assert kl > 0
    torch.testing.assert_close(kl, estimate, atol=0.05, rtol=0)
    standard = StandardNormal(2)
    assert standard.kl(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), generator).item() == 0


def test_mixture_is_torchs(generator: torch.Generator) -> None:
    prior = Mixture(2, components=5)
    torch.nn.init.normal_(prior.log_variances, std=0.5, generator=generator)
    torch.nn.init.normal_(prior.logits, generator=generator)
    components = Independent(Normal(prior.means, (prior.log_variances / 2).exp()), 1)
    expected = MixtureSameFamily(Categorical(logits=prior.logits), components)
    z = torch.randn(10, 2, generator=generator)
    torch.testing.assert_close(prior.log_prob(z, generator), expected.log_prob(z))


def test_a_layer_may_stand_on_a_layer(generator: torch.Generator) -> None:
    above = {"name": "layer", "code": 2, "hidden": [4]}
    prior = PRIORS.build(PRIOR_SECTIONS["layer"] | {"prior": above}, 2)
    assert isinstance(prior, Layer)
    assert isinstance(prior.prior, Layer)
    assert prior.log_prob(torch.zeros(3, 2), generator).isfinite().all()


def test_mixture_stays_in_float32_under_autocast(generator: torch.Generator) -> None:
    prior = Mixture(32, components=50)
    torch.nn.init.constant_(prior.log_variances, -2.0)
    z = torch.randn(100, 32, generator=generator)
    exact = prior.log_prob(z, generator)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prior.log_prob(z, generator), exact)
