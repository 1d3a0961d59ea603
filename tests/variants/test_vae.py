import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from aelab.models.checkpoint import build
from aelab.models.prior import kl_to_standard_normal, reparameterise
from aelab.variants.vae import VAE
from tests.support.toys import IMAGE, PARAMETERS, batch


@pytest.fixture
def gaussians(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(100, 5, generator=generator), torch.randn(100, 5, generator=generator)


def test_kl_is_the_closed_form(gaussians: tuple[torch.Tensor, torch.Tensor]) -> None:
    mean, log_variance = gaussians
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)


def test_kl_is_not_negative_and_zero_only_for_the_prior(gaussians: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert (kl_to_standard_normal(*gaussians) > 0).all()
    assert kl_to_standard_normal(torch.zeros(1, 5), torch.zeros(1, 5)).item() == 0


def test_kl_is_not_symmetric() -> None:
    q, p = Normal(1.0, 0.5), Normal(0.0, 1.0)
    forward = kl_to_standard_normal(torch.tensor([[1.0]]), torch.tensor([[2 * math.log(0.5)]])).item()
    assert forward == pytest.approx(kl_divergence(q, p).item())
    assert abs(forward - kl_divergence(p, q).item()) > 0.1


def test_reparameterisation_has_the_moments_of_q(generator: torch.Generator) -> None:
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, math.log(0.25)]])
    z = reparameterise(mean.expand(200_000, -1), log_variance.expand(200_000, -1), generator)
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.01, rtol=0)
    torch.testing.assert_close(z.std(0), (log_variance[0] / 2).exp(), atol=0.01, rtol=0)


def test_reparameterisation_passes_gradients_to_mean_and_variance(generator: torch.Generator) -> None:
    mean, log_variance = torch.zeros(1, 3, requires_grad=True), torch.zeros(1, 3, requires_grad=True)
    reparameterise(mean, log_variance, generator).sum().backward()
    assert mean.grad is not None
    assert log_variance.grad is not None
    assert torch.equal(mean.grad, torch.ones(1, 3))
    assert (log_variance.grad != 0).all()


def test_loss_is_log_p_minus_the_gap_to_the_true_posterior(generator: torch.Generator) -> None:
    """−ELBO = −log p(x) + KL(q(z|x) ‖ p(z|x)). Quadrature gives both terms for a code of one dimension."""
    torch.manual_seed(3)
    model = build("vae", IMAGE, PARAMETERS["vae"] | {"code": 1})
    assert isinstance(model, VAE)
    x = torch.rand(1, *IMAGE, generator=generator)
    with torch.no_grad():
        mean, log_variance = model.posterior(x)
        z = torch.linspace(-10, 10, 4001).unsqueeze(1)
        step = 20 / 4000
        log_joint = Normal(0.0, 1.0).log_prob(z[:, 0])
        for logits, pixels in [(model.decoder(z).flatten(1), x.flatten())]:
            log_joint = log_joint + (pixels * logits - torch.nn.functional.softplus(logits)).sum(1)
        log_p = torch.logsumexp(log_joint, 0) + math.log(step)
        log_q = Normal(mean[0], (log_variance[0] / 2).exp()).log_prob(z)[:, 0]
        gap = (log_q.exp() * (log_q - (log_joint - log_p))).sum() * step
        many = x.expand(20_000, -1, -1, -1)
        distortion, rate = model.bound(many, many, generator)
    assert gap > 0
    assert (distortion + rate).mean().item() == pytest.approx((-log_p + gap).item(), rel=1e-3)


def test_distortion_is_the_bernoulli_log_likelihood(generator: torch.Generator, x: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = build("vae", IMAGE, PARAMETERS["vae"])
    assert isinstance(model, VAE)
    binary = (x > 0.5).float()
    distortion, _ = model.bound(binary, binary, generator)
    z = reparameterise(*model.posterior(binary), torch.Generator().manual_seed(0))
    expected = -Bernoulli(logits=model.decoder(z)).log_prob(binary).flatten(1).sum(1)
    torch.testing.assert_close(distortion, expected)


def test_beta_weighs_the_rate(generator: torch.Generator, x: torch.Tensor) -> None:
    model = build("vae", IMAGE, PARAMETERS["vae"] | {"beta": 4.0})
    losses = model.loss(batch(x, x, generator))
    torch.testing.assert_close(losses["loss"], losses["distortion"] + 4 * losses["rate"])


def test_extreme_log_variance_stays_finite(generator: torch.Generator, x: torch.Tensor) -> None:
    model = build("vae", IMAGE, PARAMETERS["vae"])
    torch.nn.init.constant_(model.get_parameter("encoder.head.bias"), 1e4)  # bias of μ and log σ²
    loss = model.loss(batch(x, x, generator))["loss"]
    loss.backward()
    assert loss > 1e7
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_measures_the_bound_with_beta_one(generator: torch.Generator, x: torch.Tensor) -> None:
    model = build("vae", IMAGE, PARAMETERS["vae"] | {"beta": 4.0}).eval()
    with torch.no_grad():
        metrics = model.measure([x], generator)
    assert metrics["neg_elbo"] == pytest.approx(metrics["rate"] + metrics["distortion"])
    assert metrics["bits_per_dim"] == pytest.approx(metrics["neg_elbo"] / 64 / math.log(2))
    assert 0 <= metrics["active_units"] <= 4


def test_the_rate_is_the_sum_over_the_dimensions(generator: torch.Generator, x: torch.Tensor) -> None:
    model = build("vae", IMAGE, PARAMETERS["vae"]).eval()
    with torch.no_grad():
        terms = model.kl_per_dimension([x[:10], x[10:]])
        assert terms.shape == (4,)
        assert terms.sum().item() == pytest.approx(model.measure([x], generator)["rate"], rel=1e-4)


def test_a_prior_that_ties_the_dimensions_has_no_rate_of_each() -> None:
    mixture = build("vae", IMAGE, PARAMETERS["vae"] | {"prior": {"name": "mixture", "components": 3}})
    assert "kl_per_dimension" in mixture.undefined
    assert "kl_per_dimension" not in build("vae", IMAGE, PARAMETERS["vae"]).undefined
