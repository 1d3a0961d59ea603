import numpy as np
import pytest
import torch

from autoencoders.modules.vectors import DEAD
from autoencoders.quantizers.codebook import Codebook


@pytest.fixture
def z_e(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(6, 3, 4, 5, generator=generator, requires_grad=True)


@pytest.fixture
def codebook(z_e: torch.Tensor, generator: torch.Generator) -> Codebook:
    """Trained on one batch, so that its vectors are not all the same."""
    codebook = Codebook(codes=7, size=3)
    codebook(z_e, generator)
    return codebook.eval()


def test_codes_are_the_nearest_in_l2(codebook: Codebook, z_e: torch.Tensor) -> None:
    vectors, rows = codebook.vectors.detach().numpy(), z_e.detach().numpy().transpose(0, 2, 3, 1)
    distances = np.linalg.norm(rows[..., None, :] - vectors, axis=-1)
    assert np.array_equal(codebook.quantise(z_e).numpy(), distances.argmin(-1))


def test_straight_through_copies_values_from_the_code_and_gradients_to_the_encoder(
    codebook: Codebook, z_e: torch.Tensor, generator: torch.Generator
) -> None:
    quantized = codebook(z_e, generator)
    torch.testing.assert_close(quantized.z_q, codebook.look_up(quantized.indices))
    weights = torch.randn(z_e.shape, generator=generator)
    (quantized.z_q * weights).sum().backward()
    assert z_e.grad is not None
    torch.testing.assert_close(z_e.grad, weights)
    assert codebook.vectors.grad is None


def test_codebook_loss_moves_the_codebook_only(
    codebook: Codebook, z_e: torch.Tensor, generator: torch.Generator
) -> None:
    codebook(z_e, generator).codebook_loss.backward()
    assert z_e.grad is None
    assert codebook.vectors.grad is not None
    assert codebook.vectors.grad.abs().sum() > 0


def test_commitment_loss_moves_the_encoder_only(
    codebook: Codebook, z_e: torch.Tensor, generator: torch.Generator
) -> None:
    codebook(z_e, generator).commitment_loss.backward()
    assert codebook.vectors.grad is None
    assert z_e.grad is not None
    assert z_e.grad.abs().sum() > 0


def test_both_losses_are_the_squared_distance_summed_per_image(
    codebook: Codebook, z_e: torch.Tensor, generator: torch.Generator
) -> None:
    quantized = codebook(z_e, generator)
    expected = (z_e - codebook.look_up(quantized.indices)).square().sum() / len(z_e)
    torch.testing.assert_close(quantized.codebook_loss, expected)
    torch.testing.assert_close(quantized.commitment_loss, expected)


def test_first_training_batch_initialises_every_code_with_an_encoder_output(
    z_e: torch.Tensor, generator: torch.Generator
) -> None:
    codebook = Codebook(codes=50, size=3)
    codebook(z_e, generator)
    rows = z_e.detach().permute(0, 2, 3, 1).reshape(-1, 3)
    assert (codebook.vectors[:, None] == rows).all(2).any(1).all()


@pytest.mark.parametrize("codes", [50, 120, 150])
def test_every_code_restarts_as_another_output(codes: int, z_e: torch.Tensor, generator: torch.Generator) -> None:
    """There are 120 outputs: with more codes than that, the rest waits for the next batch."""
    codebook = Codebook(codes=codes, size=3)
    codebook(z_e, generator)
    assert len(codebook.vectors.detach().unique(dim=0)) == min(codes, 120 + 1)  # those that wait are all zero
    codebook(z_e.detach() + 1, generator)
    assert len(codebook.vectors.detach().unique(dim=0)) == codes


def test_dead_codes_restart_and_living_ones_stay(
    codebook: Codebook, z_e: torch.Tensor, generator: torch.Generator
) -> None:
    codebook.usage.fill_(1.0)
    codebook.usage[2] = DEAD / 2
    before = codebook.vectors.detach().clone()
    codebook.train()(z_e, generator)
    changed = (codebook.vectors != before).any(1)
    assert changed.tolist() == [i == 2 for i in range(7)]


def test_evaluation_changes_nothing(codebook: Codebook, z_e: torch.Tensor, generator: torch.Generator) -> None:
    codebook.usage.zero_()  # every code is dead, so training would restart them all
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    codebook.eval()(z_e, generator)
    assert all(torch.equal(before[name], value) for name, value in codebook.state_dict().items())


def test_bfloat16_picks_the_same_codes(codebook: Codebook, z_e: torch.Tensor) -> None:
    expected = codebook.quantise(z_e)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codebook.quantise(z_e), expected)


def test_wrong_size_raises(codebook: Codebook, generator: torch.Generator) -> None:
    with pytest.raises(RuntimeError, match="shape"):
        codebook(torch.zeros(1, 5, 2, 2), generator)
