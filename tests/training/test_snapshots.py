"""Interrupted trainings: after any step, a training that resumes in another process ends with the same bits."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from aelab.core import tensor_file
from aelab.core.errors import DamagedFile
from aelab.core.settings import Budget, TrainingOptions
from aelab.data.pairs import Pairs
from aelab.models.base import Autoencoder, Batch, Losses
from aelab.models.checkpoint import build
from aelab.models.quantizer import QUANTIZERS
from aelab.training import snapshots
from aelab.training.curve import Curve, Progress
from aelab.training.loop import Session, train
from aelab.training.snapshots import Snapshots
from aelab.training.state import PhaseResult, Snapshot, Stopped, TrainingState
from aelab.variants.ae import AE
from tests.support.toys import IMAGE, LEARNING, PARAMETERS, SECTIONS, StopsAt, ended

BUDGET = Budget(steps=11, batch_size=16, learning_rate=0.01)  # epochs of 4 batches
HOW = TrainingOptions(mode="eager", points=4, validations=3)


def run(name: str, pixels: NDArray[np.uint8], keeper: Snapshots | None, device: str = "cpu", mode: str = "eager",
        room: int | None = None) -> tuple[Autoencoder, dict[str, PhaseResult]]:  # fmt: skip
    model = build(name, IMAGE, PARAMETERS[name], seed=0).to(device)
    noisy = np.concatenate([pixels // 2, pixels // 3])
    shown = Pairs(noisy if name == "dae" else pixels, pixels)
    held = Pairs(pixels[::-1].copy(), pixels)
    options = HOW.model_copy(update={"mode": mode})
    with pytest.MonkeyPatch.context() as patch:
        if room is not None:
            patch.setattr("aelab.core.devices.room", lambda _: room)
        return model, train(model, shown, held, BUDGET, seed=0, options=options, session=Session(store=keeper))


def broken_off(name: str, pixels: NDArray[np.uint8], folder: Path, stops: list[int], **options: Any) -> Any:
    """Result of a training that stops after each number of steps in `stops` and resumes in a new model."""
    for count in stops:
        with pytest.raises(Stopped):
            run(name, pixels, StopsAt(folder, count), **options)
    return ended(*run(name, pixels, Snapshots(folder), **options))


@pytest.mark.parametrize("name", LEARNING)
def test_stopped_after_every_step_it_ends_in_the_same_bits(
    name: str, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    assert broken_off(name, pixels, tmp_path, [1] * 10) == ended(*run(name, pixels, None))


def test_stopped_once_after_any_step_it_ends_in_the_same_bits(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    undisturbed = ended(*run("vae", pixels, None))
    for first in range(1, 11):
        assert broken_off("vae", pixels, tmp_path / str(first), [first]) == undisturbed


@pytest.mark.parametrize("name", QUANTIZERS.available())
def test_stopped_with_any_quantiser_it_ends_in_the_same_bits(
    name: str, pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantizer = {"name": name} | SECTIONS[name]
    monkeypatch.setitem(PARAMETERS, "vqvae", PARAMETERS["vqvae"] | {"quantizer": quantizer})
    assert broken_off("vqvae", pixels, tmp_path, [1, 5, 7]) == ended(*run("vqvae", pixels, None))


class Dropout(AE):
    """An autoencoder that draws from torch's default generator."""

    def __init__(self) -> None:
        super().__init__(IMAGE, **PARAMETERS["ae"])
        self.encoder = nn.Sequential(nn.Dropout(0.3), self.encoder)


def test_layers_that_draw_from_torchs_own_generator_go_on_too(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    def learn(keeper: Snapshots | None) -> Any:
        torch.manual_seed(0)
        model = Dropout()
        torch.rand(7)  # earlier draws must not matter
        session = Session(store=keeper)
        return ended(model, train(model, pixels, pixels, BUDGET, seed=0, options=HOW, session=session))

    undisturbed = learn(None)
    for step in range(1, 11):
        with pytest.raises(Stopped):
            learn(StopsAt(tmp_path / str(step), step))
        torch.rand(3)
        assert learn(Snapshots(tmp_path / str(step))) == undisturbed


def test_without_its_generator_in_the_snapshot_dropout_would_end_in_other_bits(
    pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aelab.core.devices.default_generator", lambda _: torch.Generator())
    with pytest.raises(AssertionError):
        test_layers_that_draw_from_torchs_own_generator_go_on_too(pixels, tmp_path)


def test_fed_from_disk_it_goes_on_too(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    undisturbed = ended(*run("dae", pixels, None))
    assert broken_off("dae", pixels, tmp_path, [2, 3, 4], room=0) == undisturbed


def seconds_with_a_pause(pixels: NDArray[np.uint8], folder: Path) -> list[float]:
    """Seconds at the points of a curve. The training stopped after 7 of 11 steps and paused for a day."""
    real, slept = time.perf_counter, 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: real() + slept)
        with pytest.raises(Stopped):
            run("ae", pixels, StopsAt(folder, 7))
        slept = 86_400.0
        _, results = run("ae", pixels, Snapshots(folder))
    return [point["seconds"] for point in results["autoencoder"].curve]


def test_the_seconds_of_a_curve_do_not_contain_a_pause(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    seconds = seconds_with_a_pause(pixels, tmp_path)
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < 86_400


def test_by_the_clock_of_the_day_the_pause_would_count(
    pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.perf_counter()
    monkeypatch.setattr(TrainingState, "elapsed", lambda _: time.perf_counter() - start)
    assert seconds_with_a_pause(pixels, tmp_path)[-1] > 86_400


def test_between_two_phases_and_in_the_second_it_goes_on(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    undisturbed = ended(*run("vqvae", pixels, None))

    class AfterTheFirst(Snapshots):
        def keep(self, snapshot: Snapshot) -> None:
            super().keep(snapshot)
            if "step" not in snapshot.values:
                raise Stopped

    with pytest.raises(Stopped):
        run("vqvae", pixels, AfterTheFirst(tmp_path / "a"))
    assert ended(*run("vqvae", pixels, Snapshots(tmp_path / "a"))) == undisturbed
    assert (
        broken_off("vqvae", pixels, tmp_path / "b", [12, 1]) == undisturbed
    )  # 11 steps of the first phase, then 4 of the prior


@pytest.mark.parametrize(
    "lost", ["generator", "adam.0.exp_avg", "adam.1.exp_avg_sq", "adam.0.step", "best_loss", "sum.loss", "model"]
)
def test_without_any_part_of_the_state_the_bits_differ(
    lost: str, pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = ended(*run("vae", pixels, None))

    def forgetful(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, values = whole(path)
        for name, tensor in tensors.items():
            if name == lost or name.startswith(f"{lost}."):
                tensor.zero_()
        if lost == "generator":
            tensors["generator"] = torch.Generator().manual_seed(5).get_state()
        return tensors, values

    whole = tensor_file.read
    assert broken_off("vae", pixels, tmp_path / "a", [5]) == undisturbed
    monkeypatch.setattr(tensor_file, "read", forgetful)
    assert broken_off("vae", pixels, tmp_path / "b", [5]) != undisturbed


def a_snapshot(number: int) -> Snapshot:
    return Snapshot({"x": torch.full((1000,), float(number))}, {"phase": "a", "results": {}, "step": number})


def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keeper = Snapshots(tmp_path)
    assert keeper.latest() is None
    for number in (1, 2, 3):
        keeper.keep(a_snapshot(number))
    assert keeper.latest().values["step"] == 3  # type: ignore[union-attr]
    path = tmp_path / snapshots.LAST
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    found = keeper.latest()
    assert found is not None
    assert found.values["step"] == 2
    assert "last.safetensors is damaged" in capsys.readouterr().out
    (tmp_path / snapshots.PREVIOUS).write_bytes(b"")
    assert keeper.latest() is None


class Killed(BaseException):
    """Simulated SIGKILL: no code after it runs."""


@pytest.mark.parametrize("call", range(8))
def test_killed_at_any_call_of_a_write_the_old_or_the_new_one_loads(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Snapshots(tmp_path)
    keeper.keep(a_snapshot(1))
    left = [call]

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def either(*arguments: Any, **keywords: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*arguments, **keywords)

        return either

    with monkeypatch.context() as patch:
        for target in ("pathlib.Path.open", "os.fsync", "pathlib.Path.replace"):
            module, _, name = target.rpartition(".")
            owner: Any = Path if module == "pathlib.Path" else __import__(module)
            patch.setattr(owner, name, dying(getattr(owner, name)))
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process does not clean up
        try:
            keeper.keep(a_snapshot(2))
        except Killed:
            assert call < 6
    found = Snapshots(tmp_path).latest()
    assert found is not None
    assert found.values["step"] in {1, 2}


def test_every_byte_of_a_sealed_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensor_file.write(
        path, {"a": torch.arange(8.0), "b": torch.zeros(2, 3, dtype=torch.int64)}, {"kind": "toy", "n": 3}
    )
    whole, rng = path.read_bytes(), random.Random(0)
    assert tensor_file.read(path)[1] == {"kind": "toy", "n": 3}
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= rng.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(DamagedFile):
            tensor_file.read(path)
        path.write_bytes(whole[:place])
        with pytest.raises(DamagedFile):
            tensor_file.read(path)


def test_without_the_seal_damage_would_go_unnoticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    tensor_file.write(path, {"a": torch.arange(8.0)}, {})
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    class Blind:
        def hexdigest(self) -> str:
            return content[content.index(b"sha256") + 12 :][:64].decode()

    monkeypatch.setattr("aelab.core.tensor_file.hashlib.sha256", lambda _: Blind())
    assert tensor_file.read(path)[0]["a"][-1] != 7.0


def test_snapshots_take_a_hundredth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("aelab.training.snapshots.time.monotonic", lambda: now[0])
    monkeypatch.setattr(tensor_file, "write", lambda path, *_: (now.__setitem__(0, now[0] + 2.0), path.touch()))
    keeper = Snapshots(tmp_path)
    assert not keeper.due()
    now[0] = 10.0
    assert keeper.due()
    keeper.keep(a_snapshot(1))
    now[0] = 12.0 + 199.0
    assert not keeper.due()
    now[0] = 12.0 + 200.0
    assert keeper.due()


def test_a_failed_write_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Snapshots(tmp_path)
    keeper.keep(a_snapshot(1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            keeper.keep(a_snapshot(2))
    assert keeper.latest().values["step"] == 1  # type: ignore[union-attr]
    assert [path.name for path in tmp_path.iterdir()] == [snapshots.LAST]


class Diverges(AE):
    """An autoencoder whose training loss is infinite from the fifth step on."""

    def loss(self, batch: Batch) -> Losses:
        losses = super().loss(batch)
        more = torch.where(batch.step < 4, 0.0, torch.inf) if self.training else 0.0
        return losses | {"loss": losses["loss"] + more}


class Late:
    """Event of losses that arrive only when the host waits for them."""

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        pass


def diverged_at(pixels: NDArray[np.uint8], keeper: Snapshots | None) -> int:
    how = HOW.model_copy(update={"points": 11})
    model = Diverges(IMAGE, **PARAMETERS["ae"])
    results = train(model, pixels, pixels, BUDGET, seed=0, options=how, session=Session(store=keeper))
    return results["autoencoder"].diverged_at_step


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make losses arrive late, as on a GPU."""
    put = Curve.put

    def put_late(curve: Curve, *arguments: Any) -> None:
        put(curve, *arguments)
        curve.coming[-1] = (*curve.coming[-1][:-1], Late())  # type: ignore[assignment]

    monkeypatch.setattr(Curve, "put", put_late)


@pytest.mark.usefixtures("late")
def test_a_divergence_that_a_snapshot_waited_for_is_the_same(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    assert diverged_at(pixels, None) == 5
    for count in range(1, 11):
        place = tmp_path / str(count)
        try:
            assert diverged_at(pixels, StopsAt(place, count)) == 5
        except Stopped:
            assert diverged_at(pixels, Snapshots(place)) == 5


@pytest.mark.usefixtures("late")
def test_a_divergence_that_is_dropped_would_be_another_one(
    pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = Curve.collect

    def forgets(curve: Curve, *, wait: bool = False) -> bool:
        found = collect(curve, wait=wait)
        if wait and found and curve.progress.steps > curve.diverged + 1:
            curve.diverged = 0  # like a snapshot that ignores the late losses
            return False
        return found

    monkeypatch.setattr(Curve, "collect", forgets)
    with pytest.raises(AssertionError):
        test_a_divergence_that_a_snapshot_waited_for_is_the_same(pixels, tmp_path)


def test_a_divergence_says_how_it_came() -> None:
    def cause(*losses: float) -> str:
        curve = Curve(Progress("", 10, 1), torch.device("cpu"), lambda _: None, lambda: 0.0)
        for step, loss in enumerate(losses, start=1):
            curve.put("train", step, {"loss": torch.tensor(loss), "rate": torch.tensor(1.0)})
        assert curve.collect()
        return curve.cause

    nan, inf = float("nan"), float("inf")
    assert (
        cause(nan)
        == "loss is nan from the start: the initial weights, an input or a parameter of the model is too large"
    )
    assert cause(2.0, 9.0, inf) == "loss is inf after the loss rose from 2 to 9: the learning rate is probably too high"
    assert cause(2.0, 1.0, nan).startswith("loss is nan after a loss of 1: an overflow")
