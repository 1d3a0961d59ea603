"""State of a training between two steps, and snapshots of the state.

A `Snapshot` contains the whole state. Therefore another process can resume the training from the snapshot, and the
result has the same bits as without an interruption. A training has one or more phases. Each phase trains one module,
such as an autoencoder or the prior over its codes.
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
    """Result of one phase of a training.

    Attributes:
        curve: the points of the training curve.
        best_step: the step with the lowest validation loss.
        diverged_at_step: the step at which a loss was not finite; 0 if all losses were finite.
        cause: the probable cause of a divergence, in a sentence.
        images: number of images in all training steps. An image counts again in each epoch.
        seconds: duration of the phase without its validations, in seconds.
        validation_seconds: duration of the validations, in seconds.
        cpu_seconds: CPU time of training and validation in seconds, for this process only.
    """

    curve: list[Point] = field(default_factory=list)
    best_step: int = 0
    diverged_at_step: int = 0
    cause: str = ""
    images: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass
class Snapshot:
    """The whole state of a training after one of its steps, or between two phases.

    Attributes:
        tensors: all tensors of the state by name, such as weights, moments of Adam and states of random generators.
        values: the rest of the state, such as the step, the curve and results of earlier phases, in JSON's types.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def points(self) -> Iterator[tuple[str, Point]]:
        """Iterate over the points of all curves so far, each with the name of its phase."""
        for phase, result in self.values["results"].items():
            yield from ((phase, point) for point in result["curve"])
        yield from ((self.values["phase"], point) for point in self.values.get("curve", []))


class CheckpointStore(Protocol):
    """A store of snapshots, which may also ask the training to stop."""

    def latest(self) -> Snapshot | None:
        """Return the snapshot to resume from; None if there is none."""

    def due(self) -> bool:
        """Whether it is time for a snapshot. The training loop calls the method between two steps."""

    def keep(self, snapshot: Snapshot) -> None:
        """Store a snapshot. If the training should stop, raise `Stopped` afterwards."""


class Stopped(Exception):  # noqa: N818 - not an error, because the user asked the training to stop
    """Raised when a training stops on request, after its snapshot was stored."""


class TrainingState:
    """State of a training: the model's weights, the results of finished phases, and the state of the current phase.

    The state of a phase contains Adam's moments, the random generators, the best weights, the curve, and the sums of
    the losses since the curve's last point.

    Args:
        model: the model with the weights of all phases.
        store: store of snapshots. The training resumes from the store's latest snapshot, if there is one.

    Attributes:
        results: results of the finished phases by name.
        phase: name of the current phase.
        done: number of steps of the current phase so far.

    Raises:
        UserError: the processes of the training find different snapshots.
    """

    def __init__(self, model: nn.Module, store: CheckpointStore | None = None) -> None:
        self.model, self.store = model, store
        self.results: dict[str, PhaseResult] = {}
        self.phase, self.done = "", 0
        self.found = store.latest() if store else None
        if store and not process_group.agree(_moment(self.found), device_of(model)):
            msg = "the processes of this training find different checkpoints: all machines must share one folder"
            raise UserError(msg)
        if self.found:
            self.results = {name: PhaseResult(**result) for name, result in self.found.values["results"].items()}
            model.load_state_dict(_under("model", self.found.tensors))

    def begin(self, phase: str, step: Step, validation: Validation, curve: Curve) -> None:
        """Begin a phase. If the store has a snapshot from the middle of the phase, resume from this snapshot."""
        self.phase, self.done = phase, 0
        self.step, self.validation, self.curve = step, validation, curve
        self.seconds_before, self.started = (0.0, 0.0, 0.0), (time.perf_counter(), time.process_time())
        if self.found and "step" in self.found.values:
            self._load(self.found)
        self.found = None

    def end(self, result: PhaseResult) -> None:
        """Record the result of the current phase."""
        self.results[self.phase] = result

    def elapsed(self) -> float:
        """Return the seconds of the current phase, without the time between a stop and the resumed training."""
        return sum(self.seconds_before[:2]) + time.perf_counter() - self.started[0]

    def seconds(self) -> tuple[float, float, float]:
        """Return the seconds of training, the seconds of validation, and the CPU seconds of both together.

        If the phase was resumed from a snapshot, the numbers include the time before this snapshot.
        """
        validation = self.seconds_before[1] + self.validation.watch.seconds()
        cpu = self.seconds_before[2] + time.process_time() - self.started[1]
        return self.elapsed() - validation, validation, cpu

    def due(self) -> bool:
        """Whether it is time for a snapshot."""
        return self.store is not None and self.store.due()

    def save(self) -> None:
        """Store a snapshot in the middle of a phase."""
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
        """Store a snapshot at the end of a phase. A resumed training begins with the phase `next_phase`."""
        self._keep(next_phase, {}, {})

    def _keep(self, phase: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Store a snapshot: weights, results of finished phases, and `tensors` and `values` of the phase `phase`."""
        if self.store:
            weights = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
            ended = {name: asdict(result) for name, result in self.results.items()}
            self.store.keep(Snapshot(weights | dict(tensors), {"phase": phase, "results": ended, **values}))

    def _load(self, snapshot: Snapshot) -> None:
        """Restore the state of the current phase from a snapshot."""
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
        """Return the tensors that stay at one address in memory during a phase. A CUDA graph uses these addresses."""
        validation, moments = self.validation, self.step.optimiser.moments
        return {
            **{f"adam.{i}.{name}": each for name, tensors in moments.items() for i, each in enumerate(tensors)},
            **{f"best.{name}": tensor for name, tensor in validation.best.items()},
            "best_loss": validation.best_loss,
            "best_step": validation.best_step,
            "alive": validation.alive,
        }


def _moment(snapshot: Snapshot | None) -> str:
    """Return the phase and step of a snapshot as text; an empty text if there is no snapshot."""
    return f"{snapshot.values['phase']} {snapshot.values.get('step')}" if snapshot else ""


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix` and a dot, under names without this beginning."""
    return {name.removeprefix(f"{prefix}."): each for name, each in tensors.items() if name.startswith(f"{prefix}.")}
