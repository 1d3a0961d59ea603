import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from autoencoders import training, variants
from autoencoders.base import Autoencoder, Learner, Losses
from autoencoders.budget import Budget, Mode
from autoencoders.checkpoint import build
from autoencoders.errors import UserError
from autoencoders.training import Pairs, fit, represent, validate
from tests.conftest import IMAGE, PARAMETERS

BUDGET = Budget(steps=10, batch_size=16, learning_rate=0.01)


@pytest.fixture
def images(pixels: NDArray[np.uint8]) -> Pairs:
    stored = torch.from_numpy(pixels)
    return Pairs(stored, stored)


def trained(name: str, images: Pairs, budget: Budget = BUDGET, seed: int = 0) -> tuple[Autoencoder, training.Result]:
    torch.manual_seed(seed)
    model = build(name, IMAGE, PARAMETERS[name])
    return model, fit(model, images, images, budget, seed=seed, precision="float32", mode="eager", label="test")


class Recorder(Learner):
    """Learns nothing; remembers what it was shown in training."""

    def __init__(self, loss: Callable[[int], float] = lambda _: 1.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.value, self.seen, self.noise = loss, [], []  # type: ignore[var-annotated]

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Losses:
        if self.training:
            self.seen.append((inputs, targets))
            self.noise.append(torch.rand((), generator=generator).item())
        return {"loss": self.weight * 1.0 + self.value(len(self.seen))}


class Waits(Recorder):
    """Reads a value in every step."""

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Losses:
        del targets, generator
        return {"loss": self.weight * inputs.sum().item()}


@pytest.mark.parametrize("name", variants.available())
def test_same_seed_same_bits(name: str, images: Pairs) -> None:
    (a, first), (b, second) = trained(name, images), trained(name, images)
    assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    assert first.history == second.history


@pytest.mark.parametrize("name", variants.available())
def test_another_seed_other_bits(name: str, images: Pairs) -> None:
    assert trained(name, images)[1].history != trained(name, images, seed=1)[1].history


@pytest.mark.parametrize("name", variants.available())
def test_loss_falls(name: str, images: Pairs) -> None:
    _, result = trained(name, images, Budget(steps=60, batch_size=16, learning_rate=0.01))
    assert result.history[-1]["validation_loss"] < 0.9 * result.history[0]["validation_loss"]


def test_validating_more_often_changes_no_weight(images: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = trained("vae", images)

    def twice(*arguments: object) -> dict[str, float]:
        validate(*arguments)  # type: ignore[arg-type]
        return validate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "validate", twice)
    again, _ = trained("vae", images)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_every_sample_once_per_epoch_in_an_order_of_its_own() -> None:
    codes = torch.arange(64)
    module = Recorder()
    fit(module, Pairs(codes, codes), Pairs(codes, codes), Budget(steps=8, batch_size=16, learning_rate=0.01),
        seed=0, precision="float32", mode="eager", label="test")  # fmt: skip
    epochs = [torch.cat([x for x, _ in module.seen[i : i + 4]]) for i in (0, 4)]
    assert all(torch.equal(epoch.sort().values, codes) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert len(set(module.noise)) == 8


def test_versions_of_a_sample_take_turns() -> None:
    targets = torch.arange(8)
    inputs = torch.cat([targets, targets + 100, targets + 200])  # three versions
    module = Recorder()
    fit(module, Pairs(inputs, targets), Pairs(targets, targets), Budget(steps=6, batch_size=4, learning_rate=0.01),
        seed=0, precision="float32", mode="eager", label="test")  # fmt: skip
    assert all(torch.equal(x % 100, y) for x, y in module.seen)
    for sample in range(8):
        versions = {int(x[y == sample]) // 100 for x, y in module.seen if (y == sample).any()}
        assert versions == {0, 1, 2}


def test_validation_picks_the_weights() -> None:
    """The recorder's loss is lowest in its third epoch of five."""
    losses = {4: 5.0, 8: 4.0, 12: 1.0, 16: 2.0, 20: 3.0}
    module = Recorder(lambda seen: losses.get(seen, 9.0))
    weights = []
    codes = torch.arange(64)

    def remember(*_: object) -> None:
        weights.append(module.weight.item())

    module.register_state_dict_pre_hook(remember)
    result = fit(module, Pairs(codes, codes), Pairs(codes, codes), Budget(steps=20, batch_size=16, learning_rate=0.01),
                 seed=0, precision="float32", mode="eager", label="test")  # fmt: skip
    assert result.best_epoch == 3
    assert module.weight.item() == weights[3]  # the untrained weights were copied first


def test_divergence_is_said_and_the_last_good_weights_kept() -> None:
    module = Recorder(lambda seen: math.nan if seen > 6 else 1.0)
    codes = torch.arange(64)
    result = fit(module, Pairs(codes, codes), Pairs(codes, codes), Budget(steps=20, batch_size=16, learning_rate=0.01),
                 seed=0, precision="float32", mode="eager", label="test")  # fmt: skip
    assert result.diverged_in_epoch == 2
    assert len(result.history) == 2
    assert module.weight.isfinite()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_budget_is_kept_to_the_step(steps: int) -> None:
    module, codes = Recorder(), torch.arange(64)
    fit(module, Pairs(codes, codes), Pairs(codes, codes), Budget(steps=steps, batch_size=16, learning_rate=0.01),
        seed=0, precision="float32", mode="eager", label="test")  # fmt: skip
    assert len(module.seen) == steps


def test_stored_bytes_become_floats_between_0_and_1(pixels: NDArray[np.uint8]) -> None:
    x = training.as_float(torch.from_numpy(pixels))
    assert x.dtype == torch.float32
    assert x.min() == 0
    assert x.max() == pixels.max() / 255


def test_prior_learns_from_the_codes_of_the_clean_images(images: Pairs) -> None:
    model, _ = trained("vqvae", images)
    phase = model.eval().phases()[1]
    codes = represent(phase, Pairs(torch.zeros_like(images.inputs), images.targets))
    assert codes.inputs is codes.targets
    assert torch.equal(codes.targets, phase.represent(training.as_float(images.targets)))  # type: ignore[misc]


def test_bfloat16_trains_too(images: Pairs) -> None:
    torch.manual_seed(0)
    model = build("vqvae", IMAGE, PARAMETERS["vqvae"])
    result = fit(model, images, images, BUDGET, seed=0, precision="bfloat16", mode="eager", label="test")
    assert math.isfinite(result.history[-1]["validation_loss"])


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def history_on_gpu(name: str, images: Pairs, mode: Mode) -> list[dict[str, float]]:
    on_gpu = Pairs(images.inputs.cuda(), images.targets.cuda())
    torch.manual_seed(0)
    model = build(name, IMAGE, PARAMETERS[name]).cuda()
    rows = []
    for phase in model.phases():
        shown = represent(phase, on_gpu)
        rows += fit(phase.module, shown, shown, BUDGET, seed=0, precision="float32", mode=mode, label="test").history
    return rows


@needs_gpu
@pytest.mark.parametrize("mode", ["graph", "eager"])
@pytest.mark.parametrize("name", variants.available())
def test_same_seed_same_bits_on_a_gpu(name: str, mode: Mode, images: Pairs) -> None:
    assert history_on_gpu(name, images, mode) == history_on_gpu(name, images, mode)


@needs_gpu
@pytest.mark.parametrize("name", variants.available())
def test_a_recorded_step_is_the_same_step(name: str, images: Pairs) -> None:
    for recorded, eager in zip(*(history_on_gpu(name, images, mode) for mode in ("graph", "eager")), strict=True):
        assert recorded == pytest.approx(eager, rel=1e-4)


@needs_gpu
def test_a_step_that_waits_for_the_gpu_is_a_sentence(images: Pairs) -> None:
    on_gpu = Pairs(images.inputs.cuda(), images.targets.cuda())
    with pytest.raises(UserError, match=r"set training\.mode to eager"):
        fit(Waits().cuda(), on_gpu, on_gpu, BUDGET, seed=0, precision="float32", mode="graph", label="test")


class NoWaiting(TorchDispatchMode):
    """Refuses whatever would make the host wait for a GPU: reading values, results whose shape depends on values."""

    waits = frozenset({"_local_scalar_dense", "nonzero", "bincount", "masked_select", "_unique2", "item", "_to_copy"})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if name in self.waits and not (name == "_to_copy" and "device" not in (kwargs or {})):
            raise AssertionError(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", variants.available())
def test_a_step_never_waits_for_the_device(name: str, images: Pairs) -> None:
    model = build(name, IMAGE, PARAMETERS[name])
    for phase in model.phases():
        step = training.Step(phase.module, represent(phase, images), BUDGET, "float32")
        step.start(1, torch.randperm(64), noise=0)
        with NoWaiting():
            step()
            step()


def test_waiting_would_be_noticed(images: Pairs) -> None:
    step = training.Step(Waits(), images, BUDGET, "float32")
    step.start(1, torch.randperm(64), noise=0)
    with NoWaiting(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        step()
