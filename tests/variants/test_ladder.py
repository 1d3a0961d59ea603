import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from aelab.models.checkpoint import build
from aelab.variants.ladder import Ladder, kl
from tests.support.toys import IMAGE, PARAMETERS


@pytest.fixture
def model() -> Ladder:
    model = build("ladder", IMAGE, PARAMETERS["ladder"], seed=0)
    assert isinstance(model, Ladder)
    return model.eval()


def test_kl_is_the_closed_form(generator: torch.Generator) -> None:
    q, p = torch.randn(2, 2, 5, 2, 3, 3, generator=generator)
    normals = [Normal(mean, (log_variance / 2).exp()) for mean, log_variance in (q, p)]
    torch.testing.assert_close(kl((q[0], q[1]), (p[0], p[1])), kl_divergence(*normals).flatten(1).sum(1))
    assert kl((q[0], q[1]), (q[0], q[1])).abs().max() == 0


def test_importance_weights_average_to_the_bound(model: Ladder, x: Tensor, generator: torch.Generator) -> None:
    """E[log w] = −(distortion + rate). The rate uses each layer's KL in closed form, the weights do not."""
    with torch.no_grad():
        many = x[:1].expand(8_000, -1, -1, -1)
        distortion, rate = model.bound(many, many, generator)
        weights = model.log_weights(x[:1], x[:1], 8_000, generator)
    torch.testing.assert_close(-weights.mean(), (distortion + rate).mean(), rtol=0.01, atol=0)


def test_every_layer_moves_the_image(model: Ladder, x: Tensor) -> None:
    with torch.no_grad():
        codes = model.encode(x[:2])
        assert [part.shape[1:] for part in codes] == [(4,), (2, 2, 2), (2, 2, 2)]
        image = model.decode(codes)
        for i, part in enumerate(codes):
            moved = (*codes[:i], part + 1, *codes[i + 1 :])
            assert not torch.equal(model.decode(moved), image)


def test_the_posterior_of_a_layer_sees_the_layers_above(model: Ladder, x: Tensor) -> None:
    """q(z_1 | z_0, x) changes with z_0. A bottom-up posterior would not."""
    with torch.no_grad():
        e = model.encoder(x[:2])
        _, found = model.infer(e, lambda q: q[0])
        _, moved = model.infer(e, lambda q: q[0] + 1)
    assert not torch.equal(found[1].q[0], moved[1].q[0])


def test_a_layer_that_adds_nothing_to_its_prior_is_not_active(x: Tensor, generator: torch.Generator) -> None:
    """μ_q moves with the layers above even in such a layer, so μ_q alone would count as active."""
    model = build("ladder", IMAGE, PARAMETERS["ladder"], seed=0)
    assert isinstance(model, Ladder)
    for parameter in model.evidence.parameters():
        torch.nn.init.zeros_(parameter)
    for layer in model._layers():
        for parameter in layer.statistics.parameters():
            torch.nn.init.zeros_(parameter[len(parameter) // 2 :])  # the second half is the correction
    with torch.no_grad():
        assert model.shifts(x)[:, 4:].abs().max() == 0
        assert model.kl_terms(x)[:, 4:].abs().max() == 0
        assert model.encode(x)[1].var(0).max() > 0
        assert model.measure([x], generator)["active_units"] <= 4
