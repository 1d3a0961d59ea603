"""The training loop: one function for every variant and every phase.

The order of the data comes from (seed, epoch), all other randomness from a generator that is seeded with
(seed, epoch) too: no epoch depends on how many random numbers an earlier one has drawn. All that a training is at a
moment is a `Snapshot`: from it the training goes on, in another process, to the same bits.
"""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing import parent_process
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from autoencoders import devices, parallel, storage
from autoencoders.base import Autoencoder, Batch, Learner, Losses, Phase
from autoencoders.budget import Budget, How, Precision
from autoencoders.errors import UserError
from autoencoders.optimiser import SCHEDULES
from autoencoders.sources import Pairs, Source, source
from autoencoders.tensors import BATCH, as_float, binarise, copy_of, device_of

Point: TypeAlias = dict[str, Any]  # step, time, and "train_…" or "validation_…" losses
EAGER_STEPS = 3  # before a step is recorded
RISE = 1.5  # how many times its least a loss has to be for a divergence to have announced itself


@dataclass
class Result:
    """What a phase's training leaves: its curve, and how it ended."""

    curve: list[Point] = field(default_factory=list)
    best_step: int = 0
    diverged_at_step: int = 0  # 0: it did not
    cause: str = ""  # of the divergence, as far as the numbers tell
    images: int = 0  # seen in training
    seconds: float = 0.0  # of training, validation not counted
    validation_seconds: float = 0.0


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


class Keeper(Protocol):
    """Where a training leaves its snapshots, and who may ask it to stop."""

    def latest(self) -> Snapshot | None:
        """The snapshot to go on from."""

    def due(self) -> bool:
        """Whether it is time for one; asked after every step."""

    def keep(self, snapshot: Snapshot) -> None:
        """Keep it; raises `Stopped` if the training is to end here."""


class Stopped(Exception):  # noqa: N818 - as asked
    """The training was asked to stop, and its snapshot is kept."""


def train(
    model: Autoencoder,
    images: Pairs | storage.Array,
    validation: Pairs | storage.Array,
    budget: Budget,
    *,
    seed: int,
    how: How | None = None,
    label: str = "",
    dynamic: bool = False,
    follow: Callable[[str, Point], None] = lambda *_: None,
    keeper: Keeper | None = None,
) -> dict[str, Result]:
    """Train a new `model` through all its phases, on the device that it is on.

    It is changed in place: to the weights with the lowest validation loss, in evaluation mode.

    Args:
        model: with its initial weights.
        images: uint8 (N, C, H, W), or pairs as for `fit` of what the model sees and what it is to give back.
        validation: likewise.
        budget: of every phase that does not override it.
        seed: of the data's order and the noise.
        how: precision, mode, how often to validate.
        label: what the progress is shown under.
        dynamic: whether the training images are binarised anew in each step, white with the gray value as probability;
            a later phase learns from one binarisation of each. The validation images are taken as they are.
        follow: called with the phase's name and each point of its curve as soon as it is known; after a snapshot, with
            those that are new since.
        keeper: of snapshots; the training goes on from the one that it has.

    Returns:
        The result of each phase by name; a phase that diverges is the last one.

    Raises:
        UserError: a training step cannot be recorded on a GPU.
        Stopped: the keeper said so.
    """
    how, images, validation = how or How(), Pairs.of(images), Pairs.of(validation)
    model.start_from(as_float(Pairs.of(images.targets).thinned(1000).targets).to(device_of(model)))
    results: dict[str, Result] = {}
    snapshot = keeper.latest() if keeper else None
    if keeper and not parallel.agree(_moment(snapshot), device_of(model)):
        msg = "the processes of this training find different checkpoints: all machines have to share their folder"
        raise UserError(msg)
    if snapshot:
        results = {name: Result(**result) for name, result in snapshot.values["results"].items()}
        model.load_state_dict(_under("model", snapshot.tensors))

    def whole(here: Snapshot) -> Snapshot:
        """What a phase is, with the weights of all of them and the results of those before."""
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        ended = {name: asdict(result) for name, result in results.items()}
        phase = model.phases()[len(results)].name
        return Snapshot(tensors | here.tensors, {"phase": phase, "results": ended, **here.values})

    for phase in model.phases()[len(results) :]:
        model.eval()
        results[phase.name] = fit(
            phase.module,
            represent(phase, images, binarised=dynamic),
            represent(phase, validation.thinned(how.validation_images)),
            budget.override(phase.training),
            seed=seed,
            how=how,
            dynamic=dynamic and phase.represent is None,
            label=f"{label} {phase.name}".strip(),
            follow=lambda point, name=phase.name: follow(name, point),  # type: ignore[misc]
            snapshot=snapshot if snapshot and "step" in snapshot.values else None,
            due=keeper.due if keeper else lambda: False,
            keep=lambda here: keeper.keep(whole(here)) if keeper else None,
        )
        snapshot = None
        if results[phase.name].diverged_at_step:
            break
        if keeper and len(results) < len(model.phases()):
            keeper.keep(whole(Snapshot({}, {})))
    model.eval()
    return results


def fit(
    module: Learner,
    train: Pairs,
    validation: Pairs,
    budget: Budget,
    *,
    seed: int,
    how: How,
    dynamic: bool = False,
    label: str = "",
    follow: Callable[[Point], None] = lambda _: None,
    room: int | None = None,
    snapshot: Snapshot | None = None,
    due: Callable[[], bool] = lambda: False,
    keep: Callable[[Snapshot], None] = lambda _: None,
) -> Result:
    """Train `module` and leave it with the weights whose validation loss was lowest.

    The learning rate follows its schedule over the whole budget. Every batch is full. Nothing on the way waits for the
    device: losses are read when they have arrived, and the device itself compares the validation losses and keeps the
    best weights.

    Args:
        module: on the device to train on.
        train: inputs (R·N, …) in R versions, targets (N, …); sample i of epoch t is seen in version (i + t) mod R.
        validation: likewise with R = 1.
        budget: how many steps, of how many samples, at what peak learning rate.
        seed: of the data's order and the noise.
        how: precision, mode, how many points the curve has and how often to validate.
        dynamic: whether to binarise the training samples anew in each step.
        label: what the progress is shown under.
        follow: called with each point of the curve as soon as it is known.
        room: bytes of samples that may lie on the device; more than that are read from disk on the way.
        snapshot: of this training, to go on from; `module` has the weights of that moment.
        due: asked after every step whether a snapshot is wanted.
        keep: called with it.
    """
    device, count, steps = device_of(module), len(train.targets), budget.steps
    batch = min(budget.batch_size, count)
    per_epoch = count // batch  # steps
    room = devices.room(device) if room is None else room
    batches = source(train, batch, device, room)
    step = Step(module, batches, budget, how.precision, samples=count, dynamic=dynamic)
    run = Recorded(step) if how.mode == "graph" and device.type == "cuda" else step
    check = Validation(module, validation, steps, how.precision, room=room, samples=count)
    every = max(1, steps // how.points)
    checks = {math.ceil(steps * (i + 1) / how.validations) for i in range(how.validations)}
    curve = Curve(Progress(label, steps, batch), device, follow)
    state = State(step, check, curve, before=snapshot)
    for done in range(state.done + 1, steps + 1):
        epoch, batches_done = divmod(done - 1, per_epoch)
        if batches_done == 0 or done == state.done + 1:
            rng = np.random.default_rng([seed, epoch + 1])
            batches.start(epoch + 1, rng.permutation(count), batches_done)
            if batches_done == 0:
                step.generator.manual_seed(int(rng.integers(2**62)))
        batches.fetch()
        run()
        step.votes.count()
        if done % every == 0 or done == steps:
            means = step.means.take((done - 1) % every + 1)
            check.alive &= means["loss"].isfinite()
            curve.put("train", done, means)
        if done in checks:
            curve.put("validation", done, check(done))
        if curve.collect(wait=parallel.size() > 1):  # all processes have to notice a divergence at the same step
            break
        if due() and done < steps:
            keep(state.snapshot(done))
    curve.collect(wait=True)
    curve.progress.close()
    seconds, validation_seconds = state.seconds()
    module.eval().load_state_dict(check.best)
    return Result(
        curve.points, int(check.best_step), curve.diverged, curve.cause, done * batch, seconds, validation_seconds
    )


def _moment(snapshot: Snapshot | None) -> str:
    """What tells a snapshot from others of its training."""
    return f"{snapshot.values['phase']} {snapshot.values.get('step')}" if snapshot else ""


class State:
    """What changes in the course of a phase's training, as one thing that can be read and written."""

    def __init__(self, step: "Step", check: "Validation", curve: "Curve", before: Snapshot | None) -> None:
        self.step, self.check, self.curve = step, check, curve
        self.done, self.before, self.started = 0, (0.0, 0.0), time.perf_counter()
        if before:
            self._load(before)

    def seconds(self) -> tuple[float, float]:
        """Of training and of validation, those before the snapshot included."""
        validation = self.check.watch.seconds()
        return (
            self.before[0] + time.perf_counter() - self.started - validation,
            self.before[1] + validation,
        )

    def snapshot(self, done: int) -> Snapshot:
        """The training after `done` steps; the module's own weights are not in it."""
        self.curve.collect(wait=True)
        sums = self.step.means.sums
        return Snapshot(
            {
                **self._tensors(),
                **{f"sum.{name}": value for name, value in sums.items()},
                **{
                    f"adam.{i}.{name}": tensor
                    for i, moments in self.step.optimiser.state_dict()["state"].items()
                    for name, tensor in moments.items()
                },
                "generator": self.step.generator.get_state(),
            },
            {"step": done, "sums": list(sums), "curve": self.curve.points, "seconds": self.seconds()},
        )

    def _load(self, snapshot: Snapshot) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(snapshot.tensors[name])
        self.step.generator.set_state(snapshot.tensors["generator"])
        adam, parameters = self.step.optimiser.state_dict(), list(self.step.module.parameters())
        for key, tensor in _under("adam", snapshot.tensors).items():
            i, name = key.split(".")
            # The fused kernel reads a moment in its parameter's memory layout, which a file does not keep.
            moment = torch.empty_like(parameters[int(i)]).copy_(tensor) if tensor.ndim else tensor
            adam["state"].setdefault(int(i), {})[name] = moment
        self.step.optimiser.load_state_dict(adam)
        device = self.step.done.device
        self.step.means.sums = {name: snapshot.tensors[f"sum.{name}"].to(device) for name in snapshot.values["sums"]}
        self.done, self.before = snapshot.values["step"], tuple(snapshot.values["seconds"])
        self.step.done.fill_(self.done)
        self.curve.go_on(snapshot.values["curve"])

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors that stay where they are."""
        check = self.check
        return {
            **{f"best.{name}": tensor for name, tensor in check.best.items()},
            "best_loss": check.best_loss,
            "best_step": check.best_step,
            "alive": check.alive,
        }


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of `tensors` whose names begin with `prefix` and a dot, without it."""
    return {name.removeprefix(f"{prefix}."): each for name, each in tensors.items() if name.startswith(f"{prefix}.")}


class Step:
    """A training step that finds all it needs on the device, in tensors that stay where they are: the batches, the
    learning rates, where it stands, the sums of the losses. So it never waits for the device, and a GPU can replay it.

    Raises:
        UserError: a number that the module keeps outside of tensors changes from step to step, which a CUDA graph would
            freeze.
    """

    def __init__(
        self,
        module: Learner,
        batches: Source,
        budget: Budget,
        precision: Precision,
        *,
        samples: int,
        dynamic: bool = False,
    ) -> None:
        device = device_of(module)
        self.samples = samples
        self.module, self.batches, self.precision, self.steps = module.train(), batches, precision, budget.steps
        self.dynamic = dynamic
        rate = torch.zeros((), device=device)  # a CUDA graph would freeze a number
        self.optimiser = torch.optim.Adam(
            module.parameters(), rate, eps=budget.epsilon, fused=True, capturable=device.type == "cuda"
        )
        self.generator = torch.Generator(device)
        self.rates = SCHEDULES[budget.schedule](budget.steps, budget.learning_rate).float().to(device)
        self.done = torch.zeros(1, dtype=torch.int64, device=device)
        self.means = Means()
        self.votes = parallel.Votes(device)
        self.calls = 0
        self.host: dict[str, Any] = {}

    def __call__(self) -> None:
        """Learn from the next batch."""
        with parallel.split(self.batches.batch) as share:
            inputs, targets = map(as_float, self.batches())
            if self.dynamic:
                inputs, targets = binarise(self.generator, inputs, targets)
            batch = Batch(inputs, targets, self.generator, self.done[0], self.steps, self.samples)
            losses = losses_of(self.module, batch, self.precision)
            self.optimiser.zero_grad()
            (share.weight * losses["loss"]).backward()
        losses = parallel.reduce(list(self.module.parameters()), losses, share, self.votes)
        self.optimiser.param_groups[0]["lr"].copy_(self.rates.index_select(0, self.done)[0])
        self.optimiser.step()
        self.means.add(losses)
        self.done += 1
        self._forbid_counting()

    def _forbid_counting(self) -> None:
        """Compare the module's numbers on the host after the second and the third step; the first may set things up."""
        self.calls += 1
        if self.calls == EAGER_STEPS - 1:
            self.host = host_numbers(self.module)
        elif self.calls == EAGER_STEPS:
            for name, value in host_numbers(self.module).items():
                if self.host.get(name) != value:
                    msg = (
                        f"{type(self.module).__name__}.{name} changes in a training step: a recorded step would go on "
                        "using its value of now; make it a buffer (a tensor), or use the batch's step"
                    )
                    raise UserError(msg)


class Recorded:
    """A `Step` on a GPU, recorded as one CUDA graph: after that a step costs one launch instead of hundreds.

    Raises:
        UserError: when a step is recorded that waits for the device.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.ran = 0
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(step.generator)
        self.stream = torch.cuda.Stream()

    def __call__(self) -> None:
        """Do the step; the first few are done one operation at a time, for libraries to set themselves up."""
        if self.ran < EAGER_STEPS:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.step()
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            if self.ran == EAGER_STEPS:
                self._record()
            self.graph.replay()
        self.ran += 1

    def _record(self) -> None:
        try:
            with torch.cuda.graph(self.graph):
                self.step()
        except torch.OutOfMemoryError:
            raise  # a sentence of its own: less memory, not another mode, is what mends it
        except RuntimeError as error:
            msg = f"a training step cannot be recorded as a CUDA graph; set training.mode to eager ({error})"
            raise UserError(msg) from error


class Validation:
    """The losses over a validation split, with the same noise every time and any schedule at its end; keeps the weights
    of the least loss. It all happens on the device, and changes no state of the training.
    """

    def __init__(
        self, module: Learner, pairs: Pairs, steps: int, precision: Precision, *, room: int, samples: int
    ) -> None:
        self.device, self.pairs, self.samples = device_of(module), pairs, samples
        self.module, self.precision, self.steps, self.count = module, precision, steps, len(pairs.targets)
        device = self.device
        self.resident = list(self._batches()) if pairs.nbytes <= room else None
        self.end = torch.tensor(steps, device=device)
        self.generator = torch.Generator(device)
        self.best = copy_of(module)
        self.best_loss = torch.tensor(math.inf, device=device)
        self.best_step = torch.tensor(0, device=device)
        self.alive = torch.tensor(True, device=device)  # no loss of the training was infinite so far
        self.watch = devices.Stopwatch(device)

    @torch.no_grad()
    def __call__(self, step: int) -> Losses:
        """The mean losses after `step` steps."""
        with self.watch:
            self.module.eval()
            self.generator.manual_seed(0)
            means = Means()
            for x, y, count in self.resident or self._batches():
                with parallel.split(count) as share:
                    batch = Batch(as_float(x), as_float(y), self.generator, self.end, self.steps, self.samples)
                    means.add(losses_of(self.module, batch, self.precision), weight=share.weight * count)
            losses = parallel.total(means.take(self.count))
            better = (losses["loss"] < self.best_loss) & self.alive
            self.best_loss.copy_(torch.where(better, losses["loss"], self.best_loss))
            self.best_step.copy_(torch.where(better, step, self.best_step))
            for name, value in self.module.state_dict().items():
                self.best[name].copy_(torch.where(better, value, self.best[name]))
            self.module.train()
        return losses

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        """This process's inputs and targets, on the device, and how many samples there are in the whole batch."""
        for x, y in self.pairs.split(BATCH):
            rows = parallel.rows(len(y))
            target = y[rows].to(self.device)
            yield (target if self.pairs.inputs is self.pairs.targets else x[rows].to(self.device)), target, len(y)


class Curve:
    """The points of a training's curve, each with the time when it was reached.

    Losses are on their way from the device when they are `put`; `collect` takes what has arrived, in order, and hands
    it on. The first point that is not finite ends the curve.
    """

    def __init__(self, progress: "Progress", device: torch.device, follow: Callable[[Point], None]) -> None:
        self.progress, self.follow = progress, follow
        self.gpu = device.type == "cuda"
        self.coming: deque[tuple[str, int, list[str], Tensor, torch.cuda.Event | None]] = deque()
        self.points: list[Point] = []
        self.diverged = 0  # the step, 0: it did not
        self.cause = ""

    def go_on(self, points: list[Point]) -> None:
        """Begin after `points`, which have been handed on already."""
        self.points = points
        self.progress.go_on(points[-1]["step"] if points else 0)

    def put(self, split: str, step: int, losses: Losses) -> None:
        """Send the losses of a split, as of `step`, on their way."""
        values, event = torch.stack(list(losses.values())), None
        if self.gpu:
            event = torch.cuda.Event()
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            event.record()
        self.coming.append((split, step, list(losses), values, event))

    def collect(self, *, wait: bool = False) -> bool:
        """Take what has arrived, or wait for all of it; returns whether the training has diverged."""
        while self.coming and not self.diverged:
            split, step, names, values, event = self.coming[0]
            if event is not None and wait:
                event.synchronize()
            elif event is not None and not event.query():
                break
            self.coming.popleft()
            losses = dict(zip(names, values.tolist(), strict=True))
            if not all(map(math.isfinite, losses.values())):
                self.diverged, self.cause = step, self._cause(split, losses)
                break
            point = {"step": step, "time": time.time(), **{f"{split}_{name}": value for name, value in losses.items()}}
            self.points.append(point)
            self.follow(point)
            self.progress.reached(step, split, losses["loss"])
        return bool(self.diverged)

    def _cause(self, split: str, losses: Mapping[str, float]) -> str:
        """What the numbers before say about losses that are not finite."""
        which = ", ".join(f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value))
        before = [point[f"{split}_loss"] for point in self.points if f"{split}_loss" in point]
        if not before:
            return f"{which} from the start: the initial weights, an input or a parameter of the model is too large"
        if before[-1] > RISE * min(before):
            return (
                f"{which} after a loss of {before[-1]:.3g} that had been {min(before):.3g}: the learning rate is "
                "probably too high"
            )
        return f"{which} after a loss of {before[-1]:.3g}: an overflow, a division by zero or the logarithm of one"


@torch.no_grad()
def represent(phase: Phase, images: Pairs, *, binarised: bool = False) -> Pairs:
    """What the module of `phase` learns from: the images, or codes of the clean ones, on disk where they are many; with
    `binarised`, of one binarisation of them.
    """
    if phase.represent is None:
        return images
    device = device_of(phase.module)
    generator = torch.Generator(device).manual_seed(0)

    def codes(stored: Tensor) -> NDArray[np.int32]:
        x = as_float(stored.to(device))
        (x,) = binarise(generator, x) if binarised else (x,)
        return phase.represent(x).to("cpu", torch.int32).numpy()  # type: ignore[misc]

    shape = codes(torch.from_numpy(storage.writable(images.targets[:1]))).shape[1:]
    found = storage.scratch((len(images.targets), *shape), np.int32)
    for start, (x, _) in enumerate(Pairs(images.targets, images.targets).split(BATCH)):
        found[start * BATCH : (start + 1) * BATCH] = codes(x)
        storage.release(found)
    return Pairs(found, found)


def losses_of(module: Learner, batch: Batch, precision: Precision) -> Losses:
    """The module's losses on a batch, its arithmetic in `precision`."""
    with torch.autocast(batch.targets.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return module.loss(batch)


def host_numbers(module: nn.Module) -> dict[str, Any]:
    """The numbers that a module keeps outside of tensors, by dotted name."""
    return {
        f"{name}.{key}".lstrip("."): value
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, int | float) and key != "training"
    }


class Means:
    """Weighted means of named losses, summed in place on the device; only reading them waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: Losses, weight: float = 1) -> None:
        """Count `losses` with `weight`."""
        for name, value in losses.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(value, dtype=torch.float32)
            self.sums[name].add_(value.detach(), alpha=weight)

    def take(self, weight: int) -> Losses:
        """The means over what has been added, `weight` altogether; then begin anew."""
        means = {name: value / weight for name, value in self.sums.items()}
        for value in self.sums.values():
            value.zero_()
        return means


class Progress:
    """A bar with throughput and time left on a terminal or in a notebook; a plain line at each validation elsewhere,
    and where several processes share the terminal.
    """

    def __init__(self, label: str, steps: int, batch: int) -> None:
        self.label, self.steps, self.batch = label if parallel.first() else "", steps, batch
        self.losses: dict[str, float] = {}
        alone = parent_process() is None and parallel.first()
        self.live = alone and (sys.stderr.isatty() or tqdm.__module__ == "tqdm.auto")
        self.bar = tqdm(
            total=steps * batch, desc=label, unit=" img", unit_scale=True, disable=not self.live, leave=False
        )
        self.started, self.before = time.perf_counter(), 0

    def go_on(self, step: int) -> None:
        """Another process has done the first `step` steps."""
        self.before = step
        self.bar.update(step * self.batch)

    def reached(self, step: int, split: str, loss: float) -> None:
        """`step` steps are done, with this loss."""
        self.losses[split] = loss
        self.bar.set_postfix_str(", ".join(f"{name} {value:.5g}" for name, value in self.losses.items()), refresh=False)
        self.bar.update(step * self.batch - self.bar.n)
        if split == "validation" and not self.live and self.label:
            seconds = time.perf_counter() - self.started
            speed = (step - self.before) / seconds
            print(
                f"{self.label}: step {step:,}/{self.steps:,}, train {self.losses.get('train', math.nan):.5g}, "
                f"validation {loss:.5g}, {speed * self.batch:,.0f} img/s, {(self.steps - step) / speed:.0f} s left",
                flush=True,
            )

    def close(self) -> None:
        """The training is over."""
        self.bar.close()
