import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from aelab.evaluation.bounds import importance_weighted
from aelab.models.checkpoint import build
from aelab.models.prior import log_normal
from aelab.priors.layer import Layer
from aelab.variants.vae import VAE

D, CODE, UPPER, NOISE = 6, 3, 2, 0.5
ROWS = 2_000  # pairs of an image and a z that are decoded at a time


class Linear(nn.Module):
    """Gaussian likelihood x ~ N(Wz, s²I)."""

    channels = 1

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        return log_normal(x.flatten(1), output.flatten(1), torch.tensor(2 * math.log(NOISE)))


class Moments(nn.Module):
    """Layer that outputs the moments of a Gaussian: a mean that is linear in the input, and a constant variance."""

    def __init__(self, weights: Tensor, variance: float) -> None:
        super().__init__()
        self.weights, self.log_variance = weights, math.log(variance)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1 if x.ndim == 4 else -1) @ self.weights.T
        return torch.cat([mean, torch.full_like(mean, self.log_variance)], -1)


class Decoder(nn.Module):
    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.weights.T).unflatten(1, (1, 2, D // 2))


def posterior(weights: Tensor, covariance: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """True posterior of a linear Gaussian model: the matrix that maps x to the mean, and the covariance."""
    precision = torch.linalg.inv(covariance) + weights.T @ weights / noise**2
    return torch.linalg.inv(precision) @ weights.T / noise**2, torch.linalg.inv(precision)


@pytest.fixture(params=["standard", "layer"])
def known(request: pytest.FixtureRequest, generator: torch.Generator) -> tuple[VAE, Tensor, Tensor]:
    """VAE whose p(x) is a Gaussian and whose posterior is too wide; images; and the exact −log p(x) of each image."""
    layer = {"name": "layer", "code": UPPER, "hidden": [2]}
    arguments = {"network": {"name": "mlp", "hidden": [4]}, "code": CODE, "beta": 1.0, "likelihood": "bernoulli"}
    prior = layer if request.param == "layer" else "standard"
    model = build("vae", (1, 2, D // 2), arguments | {"prior": prior})
    assert isinstance(model, VAE)
    weights = torch.randn(D, CODE, generator=generator)
    covariance = torch.eye(CODE)
    if isinstance(model.prior, Layer):
        above, spread = torch.randn(CODE, UPPER, generator=generator), 0.7
        model.prior.down = Moments(above, spread**2)  # type: ignore[assignment]
        covariance = above @ above.T + spread**2 * torch.eye(CODE)
        mean, true = posterior(above, torch.eye(UPPER), spread)
        model.prior.up = Moments(mean, 1.3 * true.diagonal().max().item())  # type: ignore[assignment]
    mean, true = posterior(weights, covariance, NOISE)
    model.encoder = Moments(mean, 1.3 * true.diagonal().max().item())
    model.decoder, model.likelihood = Decoder(weights), Linear()  # type: ignore[assignment]
    marginal = MultivariateNormal(torch.zeros(D), weights @ covariance @ weights.T + NOISE**2 * torch.eye(D))
    x = torch.stack([marginal.loc + marginal.scale_tril @ torch.randn(D, generator=generator) for _ in range(40)])
    return model, x.view(40, 1, 2, D // 2), -marginal.log_prob(x)


def test_the_bound_is_the_closed_form_within_its_error(
    known: tuple[VAE, Tensor, Tensor], generator: torch.Generator
) -> None:
    model, x, nll = known
    bound = importance_weighted(model, [x], 20_000, generator, ROWS)
    assert bound.error < 0.02
    assert abs(bound.nll.mean() - nll.double().mean()) < 4 * bound.error
    # No one of the 40 images should be 5 standard errors off.
    assert ((bound.nll - nll) / bound.variance.sqrt()).abs().max() < 5


def test_the_error_is_what_repetitions_differ_by(known: tuple[VAE, Tensor, Tensor], generator: torch.Generator) -> None:
    model, x, _ = known
    repeated = torch.stack([importance_weighted(model, [x], 500, generator, ROWS).nll for _ in range(60)])
    said = importance_weighted(model, [x], 500, generator, ROWS).variance.mean().sqrt()
    assert said.item() == pytest.approx(repeated.var(0).mean().sqrt().item(), rel=0.25)


def test_the_bound_falls_with_k_and_never_below_the_truth(
    known: tuple[VAE, Tensor, Tensor], generator: torch.Generator
) -> None:
    model, x, nll = known
    many = x.repeat(50, 1, 1, 1)
    means = [importance_weighted(model, [many], k, generator, ROWS).nll.mean().item() for k in (1, 5, 50, 500)]
    assert means == sorted(means, reverse=True)
    assert means[0] - means[1] > 0.05
    assert means[-1] > nll.mean().item() - 0.05


def test_chunks_change_nothing_but_the_draws(known: tuple[VAE, Tensor, Tensor], generator: torch.Generator) -> None:
    model, x, nll = known
    for rows in (7, 64, 10_000):
        bound = importance_weighted(model, [x], 200, generator, rows)
        assert abs(bound.nll.mean() - nll.double().mean()) < 5 * bound.error
        assert len(bound.nll) == len(x)


def test_memory_is_bounded(
    known: tuple[VAE, Tensor, Tensor], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, _ = known
    seen = []
    log_weights = model.log_weights

    def counting(inputs: Tensor, targets: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        seen.append(len(inputs) * samples)
        return log_weights(inputs, targets, samples, generator)

    monkeypatch.setattr(model, "log_weights", counting)
    importance_weighted(model, [x], 1_000, generator, rows=100)
    assert max(seen) <= 100
    assert sum(seen) == 1_000 * len(x)


def test_some_images_stand_for_all(known: tuple[VAE, Tensor, Tensor], generator: torch.Generator) -> None:
    model, x, _ = known
    everything = importance_weighted(model, [x], 5_000, generator, ROWS)
    neg_elbo = (everything.nll + everything.gap).mean().item()
    some = importance_weighted(model, [x[::2]], 5_000, generator, ROWS)
    nll, error = some.of_all(neg_elbo, 0.0, len(x))
    assert abs(nll - everything.nll.mean().item()) < 4 * error
    assert everything.of_all(math.nan, math.nan, len(x)) == (everything.nll.mean().item(), everything.error)
    # The control variate reduces the error.
    assert abs(some.nll.mean() - everything.nll.mean()) > abs(nll - everything.nll.mean())


def test_more_rows_than_samples_take_images_together(
    known: tuple[VAE, Tensor, Tensor], generator: torch.Generator
) -> None:
    model, x, _ = known
    assert importance_weighted(model, x.split(7), 3, generator, ROWS).nll.shape == (40,)


def test_effective_samples_are_all_of_them_for_the_true_posterior(generator: torch.Generator) -> None:
    """The effective sample size is k if all weights are equal, and 1 if one weight dominates."""
    weights = torch.zeros(3, 50)
    weights[1, 0] = 100.0

    class Fixed:
        def log_weights(self, x: Tensor, _: Tensor, samples: int, __: torch.Generator) -> Tensor:
            return weights[: len(x), :samples]

    bound = importance_weighted(Fixed(), [torch.zeros(3, 1)], 50, generator, rows=1_000)  # type: ignore[arg-type]
    assert bound.effective.tolist() == pytest.approx([50, 1, 50])
