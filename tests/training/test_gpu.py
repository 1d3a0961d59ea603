"""Training and evaluation on a GPU. `make gpu` runs these tests first.

They cover every part, as a CUDA graph and eager, in both precisions, with data from memory and from disk, and resumed.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from aelab.core import devices
from aelab.core.errors import UserError
from aelab.core.settings import Budget, Mode, Precision, TrainingOptions
from aelab.data.pairs import Pairs
from aelab.evaluation import geometry, probes, reconstruction
from aelab.models.base import Batch, Losses, Shape
from aelab.models.checkpoint import build
from aelab.training.loop import Session, fit, train
from aelab.training.snapshots import Snapshots
from aelab.training.state import Stopped
from tests.support.project import REPOSITORY
from tests.support.toys import CASES, LEARNING, PARAMETERS, Recorder, StopsAt, ended, quadrants

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

IMAGE = (3, 16, 16)  # large enough for cuDNN's convolutions
BUDGET = Budget(steps=11, batch_size=16, learning_rate=0.01)  # epochs of 4 batches
MODES: tuple[Mode, ...] = ("graph", "eager")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
ROUNDING = {"float32": 1e-4, "bfloat16": 0.05}


@pytest.fixture(autouse=True)
def device() -> torch.device:
    return devices.prepare("cuda", 1)


def pixels(image: Shape = IMAGE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(256, size=(64, *image), dtype=np.uint8)


def learned(
    case: str, image: Shape = IMAGE, session: Session | None = None, *, dynamic: bool = False, **options: Any
) -> Any:
    """Train the model of a case, and return its final bits and its curves."""
    model = build(case.split(maxsplit=1)[0], image, CASES[case], seed=0).cuda()
    how = TrainingOptions(points=4, validations=3, **options)
    noisy = Pairs(np.concatenate([pixels(image) // 2, pixels(image) // 3]), pixels(image))
    shown = noisy if case == "dae" else Pairs.of(pixels(image))
    return ended(
        model, train(model, shown, pixels(image), BUDGET, seed=0, options=how, dynamic=dynamic, session=session)
    )


def losses(trained: Any) -> list[float]:
    """All losses of the curves."""
    return [value for curve in trained[1][0] for point in curve for value in point.values()]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_a_recorded_step_is_the_same_step_and_gives_the_same_bits_again(case: str, precision: Precision) -> None:
    if not devices.fast_at_bfloat16("cuda") and precision == "bfloat16":
        pytest.skip("this GPU emulates bfloat16")
    recorded, again, eager = (learned(case, mode=mode, precision=precision) for mode in ("graph", "graph", "eager"))
    assert recorded == again
    assert losses(recorded) == pytest.approx(losses(eager), rel=ROUNDING[precision])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", PARAMETERS)
def test_fed_from_disk_it_has_the_same_bits(case: str, mode: Mode) -> None:
    assert learned(case, session=Session(room=0), mode=mode) == learned(case, mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [case for case in CASES if case.split(maxsplit=1)[0] in LEARNING])
def test_broken_off_it_goes_on_to_the_same_bits(case: str, mode: Mode, tmp_path: Path) -> None:
    undisturbed = learned(case, mode=mode)
    for count in (1, 4, 2):
        with pytest.raises(Stopped):
            learned(case, session=Session(store=StopsAt(tmp_path, count)), mode=mode)
    assert learned(case, session=Session(store=Snapshots(tmp_path)), mode=mode) == undisturbed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ["ae", "vae", "vqvae"])
def test_binarised_anew_in_each_step_it_has_the_same_bits(case: str, mode: Mode) -> None:
    assert learned(case, dynamic=True, mode=mode) == learned(case, dynamic=True, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_that_draws_from_torchs_own_generator_goes_on_too(mode: Mode, tmp_path: Path) -> None:
    def run(store: Snapshots | None) -> Any:
        model = build("ae", IMAGE, PARAMETERS["ae"], seed=0)
        model.encoder = nn.Sequential(nn.Dropout(0.3), model.encoder)  # type: ignore[arg-type]
        how = TrainingOptions(points=4, validations=3, mode=mode)
        session = Session(store=store)
        return ended(model, train(model.cuda(), pixels(), pixels(), BUDGET, seed=0, options=how, session=session))

    undisturbed = run(None)
    with pytest.raises(Stopped):
        run(StopsAt(tmp_path, 6))
    torch.rand(5, device="cuda")
    assert run(Snapshots(tmp_path)) == undisturbed


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
import pytest
from aelab.core import devices
from aelab.training.loop import Session
from aelab.training.snapshots import Snapshots
from aelab.training.state import Stopped
from tests.support.toys import StopsAt
from tests.training.test_gpu import learned
devices.prepare("cuda", 1)
folder, mode, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = StopsAt(folder, count) if count else Snapshots(folder)
try:
    weights, _ = learned("vae", session=Session(store=store), mode=mode)
    print(b"".join(weights).hex())
except Stopped:
    print("stopped")
"""


@pytest.mark.parametrize("mode", MODES)
def test_another_process_goes_on_to_the_same_bits(mode: Mode, tmp_path: Path) -> None:
    def run(count: int) -> str:
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path), mode, str(count)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()[-1]

    assert run(5) == "stopped"
    assert run(0) == b"".join(learned("vae", mode=mode)[0]).hex()


class Diverges(Recorder):
    """A module with an infinite loss from its seventh step on."""

    def loss(self, batch: Batch) -> Losses:
        return {"loss": self.weight + torch.where(batch.step < 6, 1.0, torch.inf)}


def test_a_clipped_gradient_is_recorded() -> None:
    def run(mode: Mode) -> Any:
        model = build("ae", IMAGE, PARAMETERS["ae"], seed=0).cuda()
        budget, how = BUDGET.override({"clip": 1e-3}), TrainingOptions(points=4, validations=3, mode=mode)
        return losses(ended(model, train(model, Pairs.of(pixels()), pixels(), budget, seed=0, options=how)))

    assert run("graph") == pytest.approx(run("eager"), rel=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_a_divergence_is_noticed(mode: Mode) -> None:
    images, how = Pairs.of(pixels()), TrainingOptions(points=11, validations=1, mode=mode)
    found = fit(Diverges().cuda(), images, images, BUDGET, seed=0, options=how)
    assert found.diverged_at_step == (0 if computes_nothing() else 7)


def computes_nothing() -> bool:
    """Whether the device is a simulated GPU that computes nothing."""
    return int(torch.tensor([1, 1], device="cuda").sum()) != 2


@pytest.mark.parametrize("case", CASES)
def test_every_part_is_evaluated(case: str, device: torch.device) -> None:
    model = build(case.split(maxsplit=1)[0], IMAGE, CASES[case], seed=0).to(device).eval()
    images = pixels()
    values = reconstruction.evaluate(model, images, {"noise": images}, batch_size=50)
    values |= reconstruction.identity(model)
    known = values | {"neg_elbo": 1.0, "neg_elbo_error": 1.0}
    values |= reconstruction.importance_weighted(model, images, known, samples=4, count=4)
    values |= geometry.measure(model, images, images, 50)
    splits = [quadrants(40, seed) for seed in range(3)]
    small = build(case.split(maxsplit=1)[0], splits[0].inputs.shape[1:], CASES[case], seed=0).to(device).eval()
    values |= probes.accuracies(small, *splits)
    x = torch.zeros(10, *IMAGE, device=device)
    figures = reconstruction.pictures(model, x, {"noise": x}, images, batch_size=50, seed=0)
    assert {"reconstructions", "denoising", "interpolation"} <= figures.keys()
    batches = list(x.split(5))
    if "kl_per_dimension" not in model.undefined:
        assert model.kl_per_dimension(iter(batches)).ndim == 1
    if "codebook" not in model.undefined:
        assert model.code_counts(iter(batches)).ndim == 1
    if "samples" not in model.undefined:
        first, second = (model.sample(5, torch.Generator(device).manual_seed(0)) for _ in range(2))
        assert torch.equal(first, second)


class Waits(Recorder):
    """A module that reads a value from the device in every step."""

    def loss(self, batch: Batch) -> Losses:
        return {"loss": self.weight * batch.inputs.sum().item()}


def test_a_step_that_waits_for_the_gpu_is_a_sentence_with_its_cause() -> None:
    images = Pairs.of(pixels())
    with pytest.raises(UserError, match=r"set training\.mode to eager \(.*captur") as problem:
        fit(Waits().cuda(), images, images, BUDGET, seed=0, options=TrainingOptions(mode="graph"))
    assert "http" not in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_layer_without_a_deterministic_kernel_is_named() -> None:
    class Pooled(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(2))

        def loss(self, batch: Batch) -> Losses:
            return {"loss": self.layers(batch.inputs).square().mean()}

    images = Pairs.of(pixels())
    named = r"adaptive_avg_pool2d\w+ is not deterministic .*: layers\.1 \(AdaptiveAvgPool2d\); use another layer"
    with pytest.raises(UserError, match=named):
        fit(Pooled().cuda(), images, images, BUDGET, seed=0, options=TrainingOptions(mode="graph"))


def test_too_little_memory_while_recording_is_not_blamed_on_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, *_: object) -> None:
            raise torch.OutOfMemoryError

    images = Pairs.of(pixels())
    monkeypatch.setattr(torch.cuda, "graph", Full)
    with pytest.raises(torch.OutOfMemoryError):
        fit(Recorder().cuda(), images, images, BUDGET, seed=0, options=TrainingOptions(mode="graph"))


def test_peak_memory_can_be_forgotten(device: torch.device) -> None:
    devices.forget_peak_memory(device)
    before = devices.peak_memory(device)
    torch.zeros(2**26, device=device)
    assert devices.peak_memory(device) >= before + 256
    torch.cuda.empty_cache()
    devices.forget_peak_memory(device)
    assert devices.peak_memory(device) < before + 256
