import math

import torch
from torch import Tensor

from aelab.models.checkpoint import build
from aelab.variants.iwae import IWAE
from aelab.variants.vae import VAE
from tests.support.toys import IMAGE, PARAMETERS, batch


def iwae(samples: int) -> IWAE:
    model = build("iwae", IMAGE, PARAMETERS["iwae"] | {"samples": samples}, seed=3)
    assert isinstance(model, IWAE)
    return model


def test_one_sample_is_the_vae(x: Tensor, generator: torch.Generator) -> None:
    """The mean of log w is the ELBO. The VAE computes its rate in closed form."""
    model = iwae(1)
    many = x[:2].repeat(5_000, 1, 1, 1)
    with torch.no_grad():
        losses = model.loss(batch(many, many, generator))
        expected = sum(term.mean() for term in VAE.bound(model, many, many, generator))
    assert losses["loss"] == losses["neg_elbo"]
    torch.testing.assert_close(losses["loss"], torch.as_tensor(expected), rtol=0.005, atol=0)


def test_the_loss_falls_with_k(x: Tensor, generator: torch.Generator) -> None:
    many = x.repeat(20, 1, 1, 1)
    with torch.no_grad():
        losses = [iwae(k).loss(batch(many, many, generator))["loss"].item() for k in (1, 5, 50)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_the_gradient_weighs_each_sample_by_its_importance(x: Tensor, generator: torch.Generator) -> None:
    """Burda et al. 2016, equation 14: the gradient of the bound is Σ w̃_i ∇ log w_i."""
    model = iwae(4)
    state = generator.get_state()
    weights = model.log_weights(x, x, 4, generator)
    weighted = -(weights.softmax(1).detach() * weights).sum(1).mean()
    generator.set_state(state)
    loss = model.loss(batch(x, x, generator))["loss"]
    parameters = [p for p in model.parameters() if p.requires_grad]
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(weighted, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_weights_of_a_known_case(x: Tensor, generator: torch.Generator) -> None:
    """Where q(z|x) is the prior and the decoder ignores z, every weight is p(x)."""
    model = iwae(4)
    for parameter in [*model.encoder.parameters(), *model.decoder.parameters()]:
        torch.nn.init.zeros_(parameter)
    binary = (x > 0.5).float()
    weights = model.log_weights(binary, binary, 4, generator)
    assert weights.shape == (len(x), 4)
    torch.testing.assert_close(weights, torch.full_like(weights, -64 * math.log(2)))
