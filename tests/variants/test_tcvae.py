import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from aelab.core.settings import Budget, TrainingOptions
from aelab.data.pairs import Pairs
from aelab.models.base import Batch
from aelab.models.checkpoint import build
from aelab.models.prior import reparameterise
from aelab.training.loop import train
from aelab.variants.tcvae import decomposition, log_weights
from tests.support.toys import IMAGE, PARAMETERS, batch, squares


@pytest.fixture
def gaussians(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random z, μ and log σ², (12, 3) each."""
    mean, log_variance = 0.7 * torch.randn(2, 12, 3, generator=generator)
    return reparameterise(mean, log_variance, generator), mean, log_variance


def test_terms_add_up_to_the_rate(gaussians: tuple[Tensor, Tensor, Tensor]) -> None:
    """With α = β = γ = 1 the model is the VAE, for every estimate of q(z)."""
    z, mean, log_variance = gaussians
    q = Normal(mean, (log_variance / 2).exp())
    for samples in (12, 1000):
        torch.testing.assert_close(
            sum(decomposition(*gaussians, samples)), (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(1)
        )


def test_a_batch_of_all_images_is_exact(gaussians: tuple[Tensor, Tensor, Tensor]) -> None:
    """The reference is q(z) and each q(z_j) as mixtures over the data set, from torch.distributions."""
    z, mean, log_variance = gaussians
    q = Normal(mean, (log_variance / 2).exp())
    mixture = Categorical(torch.ones(12))
    log_q_z = MixtureSameFamily(mixture, Independent(q, 1)).log_prob(z)
    marginals = [
        MixtureSameFamily(mixture, Normal(mean[:, j], (log_variance[:, j] / 2).exp())).log_prob(z[:, j])
        for j in range(3)
    ]
    log_product = torch.stack(marginals).sum(0)
    information, correlation, dimensions = decomposition(*gaussians, samples=12)
    torch.testing.assert_close(information, q.log_prob(z).sum(1) - log_q_z)
    torch.testing.assert_close(correlation, log_q_z - log_product)
    torch.testing.assert_close(dimensions, log_product - Normal(0.0, 1.0).log_prob(z).sum(1))


def test_a_batch_estimates_the_density_without_bias(gaussians: tuple[Tensor, Tensor, Tensor]) -> None:
    """The mean over all batches that contain an image equals q(z) over the whole data set."""
    z, mean, log_variance = gaussians
    densities = Normal(mean, (log_variance / 2).exp()).log_prob(z[:1]).sum(1).exp()  # q(z_0|x_k), (12,)
    weights = log_weights(3, 12, z.device).exp()[0]  # weights of image 0 and of two other images
    pairs = torch.combinations(torch.arange(1, 12), 2)
    estimates = weights[0] * densities[0] + (weights[1:] * densities[pairs]).sum(1)
    torch.testing.assert_close(estimates.mean(), densities.mean())


@pytest.mark.parametrize(("size", "samples"), [(2, 2), (64, 54_000), (64, 10)])
def test_weights_add_up_to_one(size: int, samples: int) -> None:
    torch.testing.assert_close(log_weights(size, samples, torch.device("cpu")).exp().sum(1), torch.ones(size))


@pytest.mark.parametrize(("size", "samples"), [(1, 5), (1, 1), (3, 1)])
def test_too_few_images_leave_finite_losses(size: int, samples: int, x: Tensor, generator: torch.Generator) -> None:
    model = build("tcvae", IMAGE, PARAMETERS["tcvae"], seed=0)
    losses = model.loss(batch(x[:size], x[:size], generator, samples=samples))
    losses["loss"].backward()
    assert all(value.isfinite() for value in losses.values())


def test_correlated_dimensions_have_a_total_correlation(generator: torch.Generator) -> None:
    """q(z) = N(0, [[1, ρ], [ρ, 1]]) has a total correlation of −½·log(1 − ρ²) nats, which is 0 for ρ = 0."""
    for rho, expected in ((0.0, 0.0), (0.9, -0.5 * math.log(1 - 0.9**2))):
        variance = 0.05  # variance of q(z|x); the means have the rest of the covariance
        covariance = torch.tensor([[1 - variance, rho], [rho, 1 - variance]])
        mean = torch.randn(3000, 2, generator=generator) @ torch.linalg.cholesky(covariance).T
        log_variance = torch.full_like(mean, math.log(variance))
        z = reparameterise(mean, log_variance, generator)
        correlation = decomposition(z, mean, log_variance, samples=3000)[1].mean().item()
        assert correlation == pytest.approx(expected, abs=0.08)


def test_each_term_has_its_weight(x: Tensor) -> None:
    def losses(**weights: float) -> dict[str, Tensor]:
        model = build("tcvae", IMAGE, PARAMETERS["tcvae"] | weights, seed=0)
        return model.loss(batch(x, x, torch.Generator().manual_seed(0)))

    plain = losses(alpha=0.0, beta=0.0, gamma=0.0)
    torch.testing.assert_close(plain["loss"], plain["distortion"])
    terms = {"alpha": "mutual_information", "beta": "total_correlation", "gamma": "dimension_wise_kl"}
    for weight, term in terms.items():
        weighted = losses(**(dict.fromkeys(terms, 0.0) | {weight: 3.0}))
        torch.testing.assert_close(weighted["loss"], plain["loss"] + 3 * plain[term])


def test_weights_of_one_are_the_vae_in_the_mean(x: Tensor) -> None:
    """The distortion is equal, and the rate differs from the closed form only by the noise of z."""
    ones = {"beta": 1.0, "alpha": 1.0, "gamma": 1.0}
    model = build("tcvae", IMAGE, PARAMETERS["tcvae"] | ones, seed=0)
    vae = build("vae", IMAGE, PARAMETERS["vae"], seed=0)
    many = x[:16].repeat(200, 1, 1, 1)
    with torch.no_grad():
        mine, other = (each.loss(batch(many, many, torch.Generator().manual_seed(0))) for each in (model, vae))
    torch.testing.assert_close(mine["distortion"], other["distortion"])
    rate = mine["mutual_information"] + mine["total_correlation"] + mine["dimension_wise_kl"]
    assert rate.item() == pytest.approx(other["rate"].item(), abs=0.05)


def test_a_loss_knows_how_many_images_are_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of training images is also used in validation."""
    seen = []
    model = build("tcvae", IMAGE, PARAMETERS["tcvae"], seed=0)
    loss = model.loss

    def spy(batch: Batch) -> dict[str, Tensor]:
        seen.append((model.training, batch.samples))
        return loss(batch)

    monkeypatch.setattr(model, "loss", spy)
    images = squares()
    budget = Budget(steps=2, batch_size=16, learning_rate=0.01)
    corrupted = Pairs(np.concatenate([images, images]), images)
    train(model, corrupted, images[:10], budget, seed=0, options=TrainingOptions(points=1, validations=1))
    assert set(seen) == {(True, 64), (False, 64)}
