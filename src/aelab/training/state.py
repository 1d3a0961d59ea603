"""Everything that a training is at a moment, as one thing that can be written and read.

A `Snapshot` is complete: from it the training goes on, in another process, to the same bits.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aelab.core import devices, process_group
from aelab.core.errors import UserError
from aelab.core.tensors import device_of
from aelab.training.curve import Curve, Point
from aelab.training.step import Step
from aelab.training.validation import Validation


@dataclass
class PhaseResult:
    """What a phase's training leaves: its curve, and how it ended."""

    curve: list[Point] = field(default_factory=list)
    best_step: int = 0
    diverged_at_step: int = 0  # 0: it did not
    cause: str = ""  # of the divergence, as far as the numbers tell
    images: int = 0  # seen in training
    seconds: float = 0.0  # of training, validation not counted
    validation_seconds: float = 0.0
    cpu_seconds: float = 0.0  # that this process computed for both: other work on the machine adds nothing to them


@dataclass
class Snapshot:
    """A training at one moment, complete: what its tensors hold, and everything else as JSON has it."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def points(self) -> Iterator[tuple[str, Point]]:
        """Every point of the curve so far, with the name of its phase."""
        for phase, result in self.values["results"].items():
            yield from ((phase, point) for point in result["curve"])
        yield from ((self.values["phase"], point) for point in self.values.get("curve", []))


class CheckpointStore(Protocol):
    """Where a training leaves its snapshots, and who may ask the training to stop."""

    def latest(self) -> Snapshot | None:
        """The snapshot to go on from."""

    def due(self) -> bool:
        """Whether it is time for one; asked after every step."""

    def keep(self, snapshot: Snapshot) -> None:
        """Keep it; raises `Stopped` if the training is to end here."""


class Stopped(Exception):  # noqa: N818 - as asked
    """The training was asked to stop, and its snapshot is kept."""


class TrainingState:
    """All that changes in the course of a training: the model's weights, the results of the phases that are over, and
    within a phase the optimiser, the noise, the sums of losses, the best weights and the curve.

    Args:
        model: whose weights change, those of all phases.
        store: of snapshots; the training goes on from the one that it has.

    Raises:
        UserError: the processes that share the training find different snapshots.
    """

    def __init__(self, model: nn.Module, store: CheckpointStore | None = None) -> None:
        self.model, self.store = model, store
        self.results: dict[str, PhaseResult] = {}
        self.phase, self.done = "", 0  # the one that goes on, and its steps so far
        self.found = store.latest() if store else None
        if store and not process_group.agree(_moment(self.found), device_of(model)):
            msg = "the processes of this training find different checkpoints: all machines have to share their folder"
            raise UserError(msg)
        if self.found:
            self.results = {name: PhaseResult(**result) for name, result in self.found.values["results"].items()}
            model.load_state_dict(_under("model", self.found.tensors))

    def begin(self, phase: str, step: Step, validation: Validation, curve: Curve) -> None:
        """Begin a phase, or go on with it where the snapshot that was found is in the middle of it."""
        self.phase, self.done = phase, 0
        self.step, self.validation, self.curve = step, validation, curve
        self.seconds_before, self.started = (0.0, 0.0, 0.0), (time.perf_counter(), time.process_time())
        if self.found and "step" in self.found.values:
            self._load(self.found)
        self.found = None

    def end(self, result: PhaseResult) -> None:
        """End the phase."""
        self.results[self.phase] = result

    def seconds(self) -> tuple[float, float, float]:
        """Of the phase's training, of its validation, and CPU time of both, those before the snapshot included."""
        validation = self.validation.watch.seconds()
        wall, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        before = self.seconds_before
        return before[0] + wall - validation, before[1] + validation, before[2] + cpu

    def due(self) -> bool:
        """Whether it is time for a snapshot."""
        return self.store is not None and self.store.due()

    def save(self) -> None:
        """Keep a snapshot in the middle of the phase."""
        tensors = {
            **self._fixed_tensors(),
            **{f"sum.{name}": value for name, value in self.step.means.sums.items()},
            "generator": self.step.generator.get_state(),
            "default_generator": self._default_generator().get_state(),
        }
        sums = list(self.step.means.sums)
        values = {"step": self.done, "sums": sums, "curve": self.curve.points, "seconds": self.seconds()}
        self._keep(self.phase, tensors, values)

    def save_between(self, next_phase: str) -> None:
        """Keep a snapshot after a phase and before the next one."""
        self._keep(next_phase, {}, {})

    def _keep(self, phase: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        if self.store:
            weights = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
            ended = {name: asdict(result) for name, result in self.results.items()}
            self.store.keep(Snapshot(weights | dict(tensors), {"phase": phase, "results": ended, **values}))

    def _load(self, snapshot: Snapshot) -> None:
        tensors, values, step = snapshot.tensors, snapshot.values, self.step
        for name, tensor in self._fixed_tensors().items():
            tensor.copy_(tensors[name])
        step.generator.set_state(tensors["generator"])
        self._default_generator().set_state(tensors["default_generator"])
        step.means.sums = {name: tensors[f"sum.{name}"].to(step.position.device) for name in values["sums"]}
        self.done, self.seconds_before = values["step"], tuple(values["seconds"])
        step.position.fill_(self.done)
        self.curve.go_on(values["curve"])

    def _default_generator(self) -> torch.Generator:
        return devices.default_generator(device_of(self.model))

    def _fixed_tensors(self) -> dict[str, Tensor]:
        """The tensors that stay where they are in the course of the phase."""
        validation, moments = self.validation, self.step.optimiser.moments
        return {
            **{f"adam.{i}.{name}": each for name, tensors in moments.items() for i, each in enumerate(tensors)},
            **{f"best.{name}": tensor for name, tensor in validation.best.items()},
            "best_loss": validation.best_loss,
            "best_step": validation.best_step,
            "alive": validation.alive,
        }


def _moment(snapshot: Snapshot | None) -> str:
    """What tells a snapshot from others of its training."""
    return f"{snapshot.values['phase']} {snapshot.values.get('step')}" if snapshot else ""


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of `tensors` whose names begin with `prefix` and a dot, without it."""
    return {name.removeprefix(f"{prefix}."): each for name, each in tensors.items() if name.startswith(f"{prefix}.")}
