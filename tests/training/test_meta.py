"""A step, a validation and an evaluation of every part on the device "meta", which has shapes but no numbers.

The tests find code that would fail, wait or freeze on a GPU, and need no GPU.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aelab.core.settings import Budget
from aelab.core.tensors import as_float, at_once
from aelab.data.pairs import Pairs
from aelab.evaluation import geometry, probes, reconstruction
from aelab.models.base import Autoencoder, Batch, Learner, Losses, Phase
from aelab.models.checkpoint import build
from aelab.training.batches import Resident
from aelab.training.step import Step
from aelab.training.validation import Validation
from tests.support.meta import META, on_meta, policed
from tests.support.toys import CASES, IMAGE, squares

BUDGET = Budget(steps=10, batch_size=16, learning_rate=0.01)


@pytest.fixture(autouse=True)
def meta(monkeypatch: pytest.MonkeyPatch) -> None:
    on_meta(monkeypatch)


def learned_from(phase: Phase) -> Pairs:
    grid: Any = phase.module.grid if phase.represent else ()
    return Pairs.of(np.zeros((64, *grid), np.int32) if phase.represent else squares())


def step_of(module: Learner, pairs: Pairs) -> Step:
    batches = Resident(pairs, BUDGET.batch_size, META)
    batches.start(1, np.random.default_rng(0).permutation(64))
    return Step(module.to(META), batches, BUDGET, "float32", samples=64, dynamic=pairs.targets.dtype == np.uint8)


@pytest.mark.parametrize("case", CASES)
def test_a_step_and_a_validation_stay_on_the_device(case: str) -> None:
    model = build(case.split(maxsplit=1)[0], IMAGE, CASES[case], seed=0).to(META)
    for phase in model.phases():
        pairs = learned_from(phase)
        step = step_of(phase.module, pairs)
        validation = Validation(phase.module, pairs, 10, "float32", room=2**30, samples=64)
        with policed(step=True):
            for _ in range(3):
                step()
            validation(5)


@pytest.mark.parametrize("case", CASES)
def test_an_evaluation_needs_no_float64_and_draws_where_it_computes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(case.split(maxsplit=1)[0], IMAGE, CASES[case], seed=0).to(META).eval()
    images = squares()
    monkeypatch.setattr(reconstruction, "UNLIKE", 8)
    with policed(step=False), torch.no_grad():
        values = reconstruction.evaluate(model, images, {"noise": images})
        values |= reconstruction.identity(model)
        known = values | {"neg_elbo": 1.0, "neg_elbo_error": 1.0}
        reconstruction.importance_weighted(model, images, known, samples=2, count=2)
        geometry.midpoint(model, torch.zeros(2, *IMAGE, device=META), images, 100)
        z, y = probes.vectors(model, torch.from_numpy(images)), torch.arange(64) % 3
        probes.logistic_regression(z, y.to(META), torch.zeros(3, z.shape[1], device=META), 1.0)
        reconstruction.pictures(model, as_float(images[:10]).to(META), {}, images, batch_size=100, seed=0)
        if "kl_per_dimension" not in model.undefined:
            model.kl_per_dimension(iter([torch.zeros(4, *IMAGE, device=META)]))
        if "codebook" not in model.undefined:
            model.code_counts(iter([torch.zeros(4, *IMAGE, device=META)]))
        if "samples" not in model.undefined:
            assert model.sample(3, torch.Generator("meta")).shape == (3, *IMAGE)
    assert values


def test_where_nothing_is_learned_a_gpu_computes_ten_times_as_many_at_once() -> None:
    """With small batches, a GPU would mostly wait for kernel launches."""
    assert [at_once(200, torch.device(kind)) for kind in ("cpu", "cuda", "mps")] == [200, 2000, 2000]


class Body(Learner):
    """A module whose loss is a given function of the weighted inputs and the batch."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.zeros(())), loss

    def loss(self, batch: Batch) -> Losses:
        return {"loss": self.function(self.weight * batch.inputs.sum(), batch)}


REFUSED: dict[str, Any] = {
    "item": lambda loss, batch: loss * batch.inputs.sum().item(),
    "if": lambda loss, batch: loss if batch.inputs.sum() > 0 else -loss,
    "a choice of elements": lambda loss, batch: loss + batch.inputs[batch.inputs > 0].sum(),
    "a tensor of the CPU": lambda loss, _: (loss + torch.zeros(8)).sum(),
    "a number of the CPU": lambda loss, _: loss * torch.tensor(2.0),
    "an array": lambda loss, _: loss * torch.from_numpy(np.ones(8, np.float32)).sum(),
    "a copy to the device": lambda loss, batch: (loss * torch.ones(8).to(batch.inputs.device)).sum(),
    "a number made on the device": lambda loss, batch: loss * torch.tensor(2.0, device=batch.inputs.device),
    "a generator of the CPU": lambda loss, batch: loss * torch.rand((), generator=of_cpu(), device=batch.inputs.device),
    "a draw without a generator": lambda loss, batch: (loss + torch.randn_like(batch.inputs)).sum(),
    "dropout": lambda loss, _: nn.functional.dropout(loss, 0.5),
    "a list": lambda loss, batch: loss * batch.inputs.new_tensor([2.0]).sum(),
    "a draw of the CPU": lambda loss, batch: loss + torch.rand((), generator=batch.generator),
    "float64": lambda loss, _: (loss.double() * 2).float(),
}


def of_cpu() -> torch.Generator:
    return torch.Generator("cpu")


@pytest.mark.parametrize("body", REFUSED)
def test_what_a_gpu_would_wait_for_or_refuse_is_refused(body: str) -> None:
    step = step_of(Body(REFUSED[body]), Pairs.of(squares()))
    with policed(step=True), pytest.raises((RuntimeError, NotImplementedError)):
        step()


def test_what_is_fine_on_a_gpu_is_not_refused() -> None:
    def fine(loss: Tensor, batch: Batch) -> Tensor:
        noise = torch.rand(3, generator=batch.generator, device=batch.inputs.device)
        return torch.where(batch.inputs.sum() > 0, loss, -loss) + noise.mean() + batch.inputs.new_ones(3).sum()

    step = step_of(Body(fine), Pairs.of(squares()))
    with policed(step=True):
        step()


class Elsewhere(Autoencoder):
    """A model whose `decode` uses a CPU tensor, a CPU generator or float64."""

    def __init__(self, how: str) -> None:
        super().__init__(IMAGE)
        self.how, self.weight = how, nn.Parameter(torch.zeros(()))

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.weight

    def decode(self, z: Tensor) -> Tensor:
        noise = {
            "cpu": lambda: torch.zeros(len(z), 1),
            "generator": lambda: torch.rand(len(z), 1, generator=torch.Generator(), device=z.device),
            "float64": lambda: z.double().mean(1, keepdim=True).float(),
            "fine": lambda: torch.zeros(len(z), 1, device=z.device),
        }[self.how]()
        return (z + noise).view(-1, *IMAGE)

    def loss(self, batch: Batch) -> Losses:
        raise NotImplementedError


@pytest.fixture(params=["cpu", "generator", "float64"])
def wrong(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_evaluation_off_the_device_is_refused(wrong: str) -> None:
    with policed(step=False):
        reconstruction.evaluate(Elsewhere("fine").to(META).eval(), squares(), batch_size=50)
        with pytest.raises(RuntimeError):
            reconstruction.evaluate(Elsewhere(wrong).to(META).eval(), squares(), batch_size=50)
