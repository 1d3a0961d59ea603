import itertools
import math
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from aelab.core import devices, process_group, tensors
from aelab.core.errors import UserError
from aelab.core.settings import Budget, TrainingOptions
from aelab.data.pairs import Pairs
from aelab.models.base import Autoencoder, Batch, Learner, Losses
from aelab.models.checkpoint import build
from aelab.training.batches import Resident
from aelab.training.curve import Curve, Progress
from aelab.training.loop import Session, fit, represent, train
from aelab.training.state import PhaseResult
from aelab.training.step import Means, Step, undetermined
from aelab.variants.ae import AE
from tests.support.toys import IMAGE, LEARNING, PARAMETERS, Recorder

BUDGET = Budget(steps=10, batch_size=16, learning_rate=0.01)
HOW = TrainingOptions(mode="eager")
CODES = np.arange(64, dtype=np.int32)


@pytest.fixture
def images(pixels: NDArray[np.uint8]) -> Pairs:
    return Pairs(pixels, pixels)


def trained(name: str, images: Pairs, budget: Budget = BUDGET, seed: int = 0) -> tuple[Autoencoder, PhaseResult]:
    torch.manual_seed(seed)
    model = build(name, IMAGE, PARAMETERS[name])
    return model, fit(model, images, images, budget, seed=seed, options=HOW)


def following(follow: Callable[[dict[str, float]], None]) -> Session:
    return Session(follow=lambda _, point: follow(point))


def losses(result: PhaseResult) -> list[dict[str, float]]:
    """The points of the curve without their times."""
    return [{key: value for key, value in point.items() if key not in {"time", "seconds"}} for point in result.curve]


class Counts(Recorder):
    """A module that counts its steps on the host."""

    steps = 0

    def loss(self, batch: Batch) -> Losses:
        self.steps += 1
        return {"loss": self.weight * batch.inputs.sum() / self.steps}


@pytest.mark.parametrize("name", LEARNING)
def test_same_seed_same_bits(name: str, images: Pairs) -> None:
    (a, first), (b, second) = trained(name, images), trained(name, images)
    assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    assert losses(first) == losses(second)


@pytest.mark.parametrize("name", LEARNING)
def test_another_seed_other_bits(name: str, images: Pairs) -> None:
    assert losses(trained(name, images)[1]) != losses(trained(name, images, seed=1)[1])


@pytest.mark.parametrize("name", LEARNING)
def test_loss_falls(name: str, images: Pairs) -> None:
    _, result = trained(name, images, Budget(steps=60, batch_size=16, learning_rate=0.01))
    held_out = [point["validation_loss"] for point in result.curve if "validation_loss" in point]
    assert held_out[-1] < 0.9 * held_out[0]


@pytest.mark.parametrize("change", [{"validations": 1}, {"points": 3}, {"points": 1000}])
def test_validations_and_points_change_no_step(change: dict[str, int], images: Pairs) -> None:
    """The recorder's loss never falls, so the first weights are kept. The test compares the noise of all steps."""
    seen = []
    for options in (HOW, HOW.model_copy(update=change)):
        module = Recorder()
        fit(module, images, images, BUDGET, seed=0, options=options)
        seen.append(module.noise)
    assert seen[0] == seen[1]


@pytest.mark.parametrize(("steps", "points"), [(250, 125), (100, 100), (30, 30)])
def test_a_curve_has_a_hundred_points_and_ten_validations(steps: int, points: int) -> None:
    began = time.time()
    result = fit(Recorder(), Pairs(CODES, CODES), Pairs(CODES, CODES),
                 Budget(steps=steps, batch_size=8, learning_rate=0.01), seed=0, options=HOW)  # fmt: skip
    train = [point["step"] for point in result.curve if "train_loss" in point]
    validation = [point["step"] for point in result.curve if "validation_loss" in point]
    assert len(train) == points
    assert validation == [math.ceil(steps * i / 10) for i in range(1, 11)]
    assert train[-1] == validation[-1] == steps
    times = [began, *(point["time"] for point in result.curve), time.time()]
    assert times == sorted(times)


def test_points_are_the_means_since_the_last_one() -> None:
    module = Recorder(float)
    result = fit(module, Pairs(CODES, CODES), Pairs(CODES, CODES), Budget(steps=7, batch_size=8, learning_rate=0.01),
                 seed=0, options=HOW.model_copy(update={"points": 3}))  # fmt: skip
    found = {point["step"]: point["train_loss"] for point in result.curve if "train_loss" in point}
    assert found == pytest.approx({2: 1.5, 4: 3.5, 6: 5.5, 7: 7.0}, abs=0.2)  # the weight changes slightly


def test_points_are_handed_on_as_they_come() -> None:
    seen: list[dict[str, float]] = []
    module = Recorder()
    done = []

    def follow(point: dict[str, float]) -> None:
        seen.append(point)
        done.append(len(module.seen))

    result = fit(
        module,
        Pairs(CODES, CODES),
        Pairs(CODES, CODES),
        BUDGET,
        seed=0,
        options=HOW,
        session=following(follow),
    )
    assert seen == result.curve
    assert done == [point["step"] for point in seen]


def test_every_sample_once_per_epoch_in_an_order_of_its_own() -> None:
    module = Recorder()
    fit(module, Pairs(CODES, CODES), Pairs(CODES, CODES), Budget(steps=8, batch_size=16, learning_rate=0.01),
        seed=0, options=HOW)  # fmt: skip
    epochs = [torch.cat([x for x, _ in module.seen[i : i + 4]]) for i in (0, 4)]
    assert all(torch.equal(epoch.sort().values, torch.arange(64)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert len(set(module.noise)) == 8


def test_versions_of_a_sample_take_turns() -> None:
    targets = np.arange(8, dtype=np.int32)
    inputs = np.concatenate([targets, targets + 100, targets + 200])  # three versions
    module = Recorder()
    fit(module, Pairs(inputs, targets), Pairs(targets, targets), Budget(steps=6, batch_size=4, learning_rate=0.01),
        seed=0, options=HOW)  # fmt: skip
    assert all(torch.equal(x % 100, y) for x, y in module.seen)
    for sample in range(8):
        versions = {int(x[y == sample]) // 100 for x, y in module.seen if (y == sample).any()}
        assert versions == {0, 1, 2}


def test_validation_picks_the_weights() -> None:
    """The recorder's loss is lowest at the third of five validations."""
    losses = {4: 5.0, 8: 4.0, 12: 1.0, 16: 2.0, 20: 3.0}
    module = Recorder(lambda seen: losses.get(seen, 9.0))
    weights = {}

    def follow(point: dict[str, float]) -> None:
        weights[point["step"]] = module.weight.item()

    result = fit(module, Pairs(CODES, CODES), Pairs(CODES, CODES), Budget(steps=20, batch_size=16, learning_rate=0.01),
                 seed=0, options=HOW.model_copy(update={"validations": 5}), session=following(follow))  # fmt: skip
    assert result.best_step == 12
    assert module.weight.item() == weights[12]
    assert len(set(weights.values())) == 20


def test_divergence_is_said_and_the_last_good_weights_kept() -> None:
    module = Recorder(lambda seen: math.nan if seen > 6 else 1.0)
    result = fit(module, Pairs(CODES, CODES), Pairs(CODES, CODES), Budget(steps=20, batch_size=16, learning_rate=0.01),
                 seed=0, options=HOW)  # fmt: skip
    assert result.diverged_at_step == 7
    assert result.curve[-1]["step"] == 6
    assert result.best_step in range(1, 7)
    assert module.weight.isfinite()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_budget_is_kept_to_the_step(steps: int) -> None:
    module = Recorder()
    fit(module, Pairs(CODES, CODES), Pairs(CODES, CODES), Budget(steps=steps, batch_size=16, learning_rate=0.01),
        seed=0, options=HOW)  # fmt: skip
    assert len(module.seen) == steps


def test_stored_bytes_become_floats_between_0_and_1(pixels: NDArray[np.uint8]) -> None:
    x = tensors.as_float(torch.from_numpy(pixels))
    assert x.dtype == torch.float32
    assert x.min() == 0
    assert x.max() == pixels.max() / 255


def test_prior_learns_from_the_codes_of_the_clean_images(images: Pairs) -> None:
    model, _ = trained("vqvae", images)
    phase = model.eval().phases()[1]
    codes = represent(phase, Pairs(np.zeros_like(images.inputs), images.targets))
    assert codes.inputs is codes.targets
    expected = phase.represent(tensors.as_float(torch.from_numpy(images.targets)))  # type: ignore[misc]
    assert np.array_equal(codes.targets, expected.numpy())


def test_a_model_is_trained_through_all_its_phases(images: Pairs) -> None:
    torch.manual_seed(0)
    model = build("vqvae", IMAGE, PARAMETERS["vqvae"])
    followed: list[str] = []
    session = Session(follow=lambda name, _: followed.append(name))
    results = train(model, images, images, BUDGET, seed=0, options=HOW, session=session)
    assert list(results) == ["autoencoder", "prior"]
    assert [results[name].images for name in results] == [10 * 16, 4 * 16]  # the prior has its own budget
    assert {name: followed.count(name) for name in results} == {name: len(results[name].curve) for name in results}
    assert not model.training


def test_bfloat16_trains_too(images: Pairs) -> None:
    torch.manual_seed(0)
    model = build("vqvae", IMAGE, PARAMETERS["vqvae"])
    result = fit(model, images, images, BUDGET, seed=0, options=TrainingOptions(precision="bfloat16"))
    assert math.isfinite(result.curve[-1]["validation_loss"])


class Arrives:
    """Replacement for a CUDA event."""

    def __init__(self) -> None:
        self.arrived = False

    def query(self) -> bool:
        return self.arrived


def test_a_point_counts_when_the_device_has_reached_it_not_when_it_was_told_to() -> None:
    progress = Progress("", 10, 16)
    curve = Curve(progress, torch.device("cpu"), lambda _: None, lambda: 7.0)
    events = [Arrives(), Arrives()]
    for step, event in enumerate(events, start=1):
        curve.coming.append(("train", step, ["loss"], torch.ones(1), event))  # type: ignore[arg-type]
    assert not curve.collect()
    assert curve.points == []
    assert progress.losses == {}
    events[0].arrived = True
    before = time.time()
    curve.collect()
    assert [point["step"] for point in curve.points] == [1]
    assert curve.points[0]["time"] >= before
    assert curve.points[0]["seconds"] == 7.0


@pytest.mark.parametrize(("seconds", "said"), [(0.1, [8]), (11.0, [1, 2, 3, 8]), (6.0, [2, 8])])
def test_a_long_training_says_more_often_how_far_it_is(
    seconds: float, said: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The curve has a point after every `seconds`, and a validation only after the eighth point."""
    monkeypatch.setattr("aelab.training.curve.sys.stderr.isatty", lambda: False)
    clock = itertools.count()
    monkeypatch.setattr("aelab.training.curve.time.perf_counter", lambda: next(clock) * seconds)
    progress = Progress("vae-seed0", 10, 16)
    for step in range(1, 4):
        progress.reached(step, "train", 1.0)
    progress.reached(8, "validation", 2.0)
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[2].split("/")[0]) for line in lines] == said
    assert all(line.startswith(("vae-seed0 ", "vae-seed0:")) for line in lines)
    assert "train 1, validation 2, " in lines[-1]


class Scheduled(Recorder):
    """A module whose loss is a weight that grows over the first half of the training."""

    def loss(self, batch: Batch) -> Losses:
        return {"loss": self.weight * 0.0 + batch.ramp(0.5)}


class Spiky(Recorder):
    """A module with one step whose gradient is a million times larger than all others, and points uphill."""

    def loss(self, batch: Batch) -> Losses:
        slope = torch.where(batch.step == 2, -1e6, 1.0)
        return {"loss": (slope * self.weight).sum()}


@pytest.mark.parametrize(("clip", "robust"), [(None, False), (2.0, True)])
def test_a_clipped_gradient_survives_a_spike(clip: float | None, *, robust: bool) -> None:
    module, budget = Spiky(), Budget(steps=10, batch_size=16, learning_rate=0.01, schedule="constant", clip=clip)
    before = module.weight.detach().clone()
    options = TrainingOptions(mode="eager", validations=1)  # else the best weights are from before the spike
    fit(module, Pairs(CODES, CODES), Pairs(CODES, CODES), budget, seed=0, options=options)
    assert bool((module.weight < before).all()) is robust  # downhill, as nine of ten gradients say


def test_a_loss_sees_the_step_and_validation_the_end_of_its_schedule() -> None:
    result = fit(Scheduled(), Pairs(CODES, CODES), Pairs(CODES, CODES), BUDGET, seed=0, options=HOW)
    train = [point["train_loss"] for point in result.curve if "train_loss" in point]
    assert train == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1])
    assert {point["validation_loss"] for point in result.curve if "validation_loss" in point} == {1.0}


def test_a_warm_up_ends_where_there_is_none() -> None:
    step = torch.arange(5)
    ramps = [Batch(step, step, torch.Generator(), each, 5, 1).ramp(0.0).item() for each in step]
    assert ramps == [1.0] * 5


def test_counting_on_the_host_is_refused(images: Pairs) -> None:
    with pytest.raises(
        UserError, match=r"Counts\.steps changes in a training step, but a CUDA graph would keep its old value"
    ):
        fit(Counts(), images, images, BUDGET, seed=0, options=HOW)


class Pooled(Recorder):
    """A module with a layer of the kind that the error names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.AdaptiveAvgPool2d(2)])

    def loss(self, _: Batch) -> Losses:
        msg = (
            "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'."
        )
        raise RuntimeError(msg)


def test_a_layer_without_a_deterministic_kernel_is_named(images: Pairs) -> None:
    """Only a GPU raises this error, so the test uses the error's text."""
    with pytest.raises(
        UserError, match=r"^adaptive_avg_pool2d_backward_cuda is not deterministic on this device: "
    ) as e:
        fit(Pooled(), images, images, BUDGET, seed=0, options=HOW)
    assert "layers.1 (AdaptiveAvgPool2d); use another layer, or set training.device to cpu" in str(e.value)
    assert undetermined(
        Pooled(), "median CUDA with indices output does not have a deterministic implementation"
    ).startswith("median CUDA with indices output is not deterministic on this device; use another layer")
    assert undetermined(Pooled(), "mat1 and mat2 shapes cannot be multiplied") == ""


def test_processes_that_share_a_training_may_not_draw_from_torchs_own_generator(
    images: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drawing(Recorder):
        def loss(self, _: Batch) -> Losses:
            return {"loss": self.weight * torch.rand(())}

    fit(Drawing(), images, images, BUDGET, seed=0, options=HOW)
    step, other = step_of(Drawing(), images), step_of(Recorder(), images)
    monkeypatch.setattr(process_group, "size", lambda: 2)
    monkeypatch.setattr(process_group, "reduce", lambda _, losses, *__: losses)
    with pytest.raises(UserError, match=r"draw from batch\.generator, or set training\.processes to 1"):
        step()
    for seed in range(3):
        torch.manual_seed(seed)  # every epoch sets this seed
        other()


def test_the_host_keeps_pace_with_the_device_in_every_step(images: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = MagicMock()
    monkeypatch.setattr(devices, "Pace", lambda _: steps)
    fit(Recorder(), images, images, BUDGET, seed=0, options=HOW)
    assert steps.call_count == BUDGET.steps


def step_of(module: Learner, images: Pairs) -> Step:
    """A step with a `Resident` source."""
    batches = Resident(images, BUDGET.batch_size, torch.device("cpu"))
    batches.start(1, np.random.default_rng(0).permutation(64))
    return Step(module, batches, BUDGET, "float32", samples=1)


class NoNewZeros(TorchDispatchMode):
    """A mode that refuses to make tensors of zeros."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "zeros_like" not in func.__name__
        return func(*args, **(kwargs or {}))


def test_sums_of_losses_are_made_once(images: Pairs) -> None:
    step = step_of(Recorder(), images)
    step()
    with NoNewZeros():
        step.means.add({"loss": torch.ones(())})
    with NoNewZeros(), pytest.raises(AssertionError):
        Means().add({"loss": torch.ones(())})


def test_dynamic_binarisation_is_another_one_in_each_step_and_the_same_for_a_corrupted_copy() -> None:
    gray = np.full((8, *IMAGE), 128, np.uint8)
    pairs = Pairs(gray // 2, gray)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watching(AE):
        def loss(self, batch: Batch) -> Losses:
            seen.append((batch.inputs, batch.targets))
            return super().loss(batch)

    model = Watching(IMAGE, **PARAMETERS["ae"])
    budget = Budget(steps=3, batch_size=8, learning_rate=0.001)
    train(model, pairs, Pairs.of(gray), budget, seed=0, dynamic=True)
    steps = [each for each in seen if len(set(each[1].flatten().tolist())) == 2]  # validation images stay gray
    assert len(steps) == 3
    for inputs, targets in steps:
        assert ((inputs == 0) | (inputs == 1)).all()
        assert (inputs <= targets).all()  # a darker image is white only where the target is white
        assert targets.mean().item() == pytest.approx(0.5, abs=0.1)
        assert inputs.mean().item() == pytest.approx(0.25, abs=0.1)
    assert not torch.equal(steps[0][1], steps[1][1])
