import itertools

import pytest
import torch
from torch.nn import functional

from aelab.variants._code_transformer import CausalPrior

K, GRID = 3, (2, 2)


@pytest.fixture
def model() -> CausalPrior:
    torch.manual_seed(0)
    model = CausalPrior(GRID, K, width=8, layers=2, heads=2)
    for parameter in model.parameters():  # far from the uniform distribution of an untrained prior
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def test_normalises_at_every_position(model: CausalPrior) -> None:
    probabilities = model(torch.tensor([[0, 1, 2, 0]])).softmax(2)
    torch.testing.assert_close(probabilities.sum(2), torch.ones(1, 4))


def test_probabilities_of_all_grids_sum_to_one(model: CausalPrior) -> None:
    grids = torch.tensor(list(itertools.product(range(K), repeat=4))).view(-1, *GRID)
    assert model.nll(grids).neg().exp().sum().item() == pytest.approx(1, abs=1e-5)


def _leaks(model: CausalPrior) -> bool:
    """Whether the distribution of a position depends on the code at this position or at a later position."""
    codes = torch.tensor([[0, 1, 2, 0]])
    for i in range(4):
        changed = codes.clone()
        changed[:, i:] = (changed[:, i:] + 1) % K
        if not torch.allclose(model(codes)[:, : i + 1], model(changed)[:, : i + 1], atol=1e-6):
            return True
    return False


def test_never_sees_the_future(model: CausalPrior) -> None:
    assert not _leaks(model)


def test_leak_is_noticed_without_the_causal_mask(model: CausalPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional,
        "scaled_dot_product_attention",
        lambda q, k, v, is_causal: attention(q, k, v),  # noqa: ARG005
    )
    assert _leaks(model)


def test_samples_follow_the_distribution(model: CausalPrior, generator: torch.Generator) -> None:
    with torch.no_grad():
        samples = model.sample(40_000, generator)
        grids = torch.tensor(list(itertools.product(range(K), repeat=4))).view(-1, *GRID)
        expected = model.nll(grids).neg().exp()
    assert samples.shape == (40_000, *GRID)
    numbers = (samples.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)  # number of each grid among all 81 grids
    torch.testing.assert_close(torch.bincount(numbers, minlength=81) / len(samples), expected, atol=0.01, rtol=0)


def test_sampling_position_by_position_gives_the_logits_of_a_full_pass(model: CausalPrior) -> None:
    codes = torch.randint(K, (5, 4), generator=torch.Generator().manual_seed(1))
    memories = [block.memory(5, 4) for block in model.blocks]  # type: ignore[operator]
    before = torch.cat([torch.full((5, 1), K), codes[:, :-1]], 1)
    with torch.no_grad():
        for i in range(4):
            hidden = model.embedding(before[:, i : i + 1]) + model.position[i]
            for block, memory in zip(model.blocks, memories, strict=True):
                hidden = block.next(hidden, memory, i)  # type: ignore[operator]
            torch.testing.assert_close(model.head(model.norm(hidden))[:, 0], model(codes)[:, i])


def test_sampling_makes_no_full_passes(
    model: CausalPrior, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(CausalPrior, "forward", forward)
    with torch.no_grad():
        assert model.sample(2, generator).shape == (2, *GRID)
