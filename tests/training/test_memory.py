import pytest
import torch
from torch import Tensor, nn

from aelab.core.settings import COPIES, Budget
from aelab.models.base import Autoencoder, Batch, Losses
from aelab.models.checkpoint import build
from aelab.training import memory
from tests.support.toys import CASES, IMAGE

BUDGET = Budget(steps=10, batch_size=16, learning_rate=0.01)


class Squares(Autoencoder):
    """A model whose backward pass needs its parameter, and one tensor of the images' size, saved `times` times."""

    def __init__(self, times: int) -> None:
        super().__init__(IMAGE)
        self.weight, self.times, self.calls = nn.Parameter(torch.ones(IMAGE)), times, 0

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def loss(self, batch: Batch) -> Losses:
        x = batch.inputs
        return {"loss": sum(((x * self.weight) for _ in range(self.times)), torch.zeros(())).mean()}


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_storage_counts_once_and_a_parameter_not_at_all(times: int) -> None:
    """Each product saves x, which is one tensor. The products also save the weight, which counts as a weight only."""
    (need,) = memory.needs(Squares(times), BUDGET, "float32", "some GPU")
    assert need.per_image == 4 * 64
    assert need.fixed == COPIES * 4 * 64
    assert need.bytes(10) == need.fixed + 10 * need.per_image


@pytest.mark.parametrize(("room", "fitting"), [(0, 0), (COPIES * 256 - 1, 0), (COPIES * 256 + 256 * 7 + 255, 7)])
def test_the_largest_batch_that_fits(room: int, fitting: int) -> None:
    (need,) = memory.needs(Squares(1), BUDGET, "float32", "some GPU")
    assert need.fitting(room) == fitting


@pytest.mark.parametrize("case", CASES)
def test_every_phase_of_every_model_has_its_need(case: str) -> None:
    model = build(case.split(maxsplit=1)[0], IMAGE, CASES[case], seed=0)
    found = memory.needs(model, BUDGET, "float32")
    assert [need.phase for need in found] == [phase.name for phase in model.phases()]
    for need, phase in zip(found, model.phases(), strict=True):
        assert need.batch == BUDGET.override(phase.training).batch_size
        assert need.fixed > 0
        assert need.per_image > 0


@pytest.mark.parametrize("case", ["ae", "vae", "vqvae"])
def test_four_times_the_pixels_take_about_four_times_as_much(case: str) -> None:
    small, large = (
        memory.needs(build(case, (1, size, size), CASES[case], seed=0), BUDGET, "float32")[0] for size in (16, 32)
    )
    assert 3 < large.per_image / small.per_image < 5
