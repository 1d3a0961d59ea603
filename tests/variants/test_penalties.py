"""Sparse, contractive and Wasserstein AE: a squared error plus a penalty on the code."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from aelab.models.checkpoint import build
from aelab.variants._deterministic import Deterministic
from aelab.variants.contractive import squared_slope
from aelab.variants.wae import SCALES, kernel, mmd
from tests.support.toys import IMAGE, PARAMETERS, batch

PENALISED = {"sparse": "size", "contractive": "slope", "wae": "mmd"}


@pytest.fixture(params=PENALISED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _build(name: str, penalty: float) -> Deterministic:
    model = build(name, IMAGE, PARAMETERS[name] | {"penalty": penalty}, seed=0)
    assert isinstance(model, Deterministic)
    return model


def test_without_its_penalty_it_is_an_ae(name: str, x: Tensor, generator: torch.Generator) -> None:
    loss = _build(name, 0.0).loss(batch(x, x, generator))["loss"]
    torch.testing.assert_close(loss, build("ae", IMAGE, PARAMETERS["ae"], seed=0).loss(batch(x, x, generator))["loss"])


def test_the_penalty_is_weighed_and_named(name: str, x: Tensor) -> None:
    losses = [_build(name, weight).loss(batch(x, x, torch.Generator().manual_seed(0))) for weight in (0.0, 3.0)]
    torch.testing.assert_close(losses[1]["loss"], losses[0]["loss"] + 3 * losses[0][PENALISED[name]])


def test_learning_lowers_the_penalty(name: str, x: Tensor) -> None:
    """Gradient descent on the penalty alone: the gradient reaches the encoder and has the right sign."""
    model = _build(name, 1.0)
    optimiser = torch.optim.Adam(model.encoder.parameters(), lr=0.01)
    seen = []
    for _ in range(60):
        value = model.loss(batch(x, x, torch.Generator().manual_seed(0)))[PENALISED[name]]
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        seen.append(value.item())
    assert seen[-1] < 0.5 * seen[0]


def test_size_does_not_depend_on_the_scale_of_the_code(x: Tensor, generator: torch.Generator) -> None:
    """Otherwise a smaller code would lower the penalty without being sparser."""
    model = _build("sparse", 1.0)
    before = model.loss(batch(x, x, generator))["size"]
    z = model.encode(x)
    torch.testing.assert_close(before, (z.abs().mean(0) / z.square().mean(0).sqrt()).sum())
    with torch.no_grad():
        model.get_parameter("encoder.head.weight").mul_(0.01)
        model.get_parameter("encoder.head.bias").mul_(0.01)
    torch.testing.assert_close(model.loss(batch(x, x, generator))["size"], before)


def test_size_is_least_where_each_number_is_zero_for_most_images(x: Tensor, generator: torch.Generator) -> None:
    model = _build("sparse", 1.0)
    sizes = {}
    for name, code in {
        "constant": torch.ones(len(x), 4),
        "gaussian": torch.randn(len(x), 4, generator=generator),
        "sparse": torch.eye(4).repeat(len(x) // 4, 1),
        "none": torch.zeros(len(x), 4),
    }.items():
        model.encoder.forward = lambda _, code=code: code
        sizes[name] = model.loss(batch(x, x, generator))["size"].item()
    assert sizes["constant"] == pytest.approx(4)
    assert sizes["gaussian"] == pytest.approx(4 * (2 / math.pi) ** 0.5, rel=0.1)
    assert sizes["sparse"] == pytest.approx(4 * 0.25**0.5)
    assert sizes["none"] == 0


def test_slope_is_the_mean_over_all_signs(generator: torch.Generator) -> None:
    """The mean of ‖vᵀJ‖² over all 2ᵈ sign vectors is exactly ‖J‖²_F. The reference is torch's exact Jacobian."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(1, 1, 3, 3, generator=generator)
    jacobian = torch.func.jacrev(encoder)(x).reshape(3, 9)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)))
    torch.testing.assert_close((signs @ jacobian).square().sum(1).mean(), jacobian.square().sum())

    many = x.expand(50_000, -1, -1, -1).contiguous().requires_grad_()
    estimates = squared_slope(encoder(many), many, generator)
    assert {round(value, 3) for value in estimates.tolist()} <= {
        round(value, 3) for value in (signs @ jacobian).square().sum(1).tolist()
    }
    assert estimates.mean().item() == pytest.approx(jacobian.square().sum().item(), rel=0.02)


def test_slope_is_measured_without_gradients_too(x: Tensor) -> None:
    """Validation runs without gradients. The loss is the same there, and the images need no gradient afterwards."""
    model = _build("contractive", 1.0)
    with torch.no_grad():
        held_out = model.loss(batch(x, x, torch.Generator().manual_seed(0)))["loss"]
    torch.testing.assert_close(model.loss(batch(x, x, torch.Generator().manual_seed(0)))["loss"], held_out)
    assert not x.requires_grad


def test_mmd_has_the_mean_zero_only_between_equal_distributions(generator: torch.Generator) -> None:
    def estimates(shift: float) -> Tensor:
        draws = torch.randn(2, 500, 20, 4, generator=generator)
        return torch.stack([mmd(a + shift, b) for a, b in zip(*draws, strict=True)])

    same, apart = estimates(0.0), estimates(1.0)
    error = same.std() / len(same) ** 0.5
    assert same.mean().abs() < 3 * error
    assert same.min() < 0  # an unbiased estimate is sometimes negative
    assert apart.mean() > 20 * error


def test_mmd_is_what_its_formula_says(generator: torch.Generator) -> None:
    a, b = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)

    def k(u: Tensor, v: Tensor) -> float:
        return sum(6 * s / (6 * s + (u - v).square().sum().item()) for s in SCALES)

    pairs = list(itertools.permutations(range(5), 2))
    expected = sum(k(a[i], a[j]) + k(b[i], b[j]) for i, j in pairs) / 20
    expected -= 2 * sum(k(u, v) for u in a for v in b) / 25
    assert mmd(a, b).item() == pytest.approx(expected, abs=1e-5)
    assert kernel(a, a).diagonal().tolist() == pytest.approx([len(SCALES)] * 5)


def test_one_image_has_no_pairs(generator: torch.Generator) -> None:
    assert mmd(*torch.randn(2, 1, 3, generator=generator)).isfinite()


def test_wae_samples_from_its_prior() -> None:
    model = _build("wae", 1.0).eval()
    with torch.no_grad():
        samples = model.sample(5, torch.Generator().manual_seed(1))
        expected = model.decode(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(samples, expected)
    assert "samples" not in model.undefined
    assert "likelihood" in model.undefined["bound"]
