"""The training loop: one function for every variant and every phase.

The order of the data comes from (seed, epoch), all other randomness from a generator that is seeded with
(seed, epoch) too: no epoch depends on how many random numbers an earlier one has drawn.
"""

import math
import sys
import time
from dataclasses import dataclass, field
from multiprocessing import parent_process
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from autoencoders.base import Learner, Losses, Phase, Shape
from autoencoders.budget import Budget, Mode, Precision
from autoencoders.errors import UserError
from autoencoders.optimiser import Adam, one_cycle

VALIDATION_BATCH = 1000
EAGER_STEPS = 3  # before a step is recorded


class Pairs(NamedTuple):
    """What is seen and what is to be given back; images as uint8, codes as integers of 64 bits."""

    inputs: Tensor
    targets: Tensor


@dataclass
class Result:
    """What a phase's training leaves: one row per epoch, and how it ended."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    diverged_in_epoch: int = 0  # 0: it did not
    images: int = 0  # seen in training
    seconds: float = 0.0  # of training, validation not counted
    validation_seconds: float = 0.0


def fit(
    module: Learner,
    train: Pairs,
    validation: Pairs,
    budget: Budget,
    *,
    seed: int,
    precision: Precision,
    mode: Mode,
    label: str,
) -> Result:
    """Train `module` and leave it with the weights of the epoch whose validation loss was lowest.

    The learning rate follows one cosine cycle (Smith & Topin 2019) over the whole budget. Every batch is full; the last
    epoch ends with the budget.

    Args:
        module: on the device of the tensors.
        train: inputs (R·N, …) in R versions, targets (N, …); sample i of epoch t is seen in version (i + t) mod R.
        validation: likewise with R = 1.
        budget: how many steps, of how many samples, at what peak learning rate.
        seed: of the data's order and the noise.
        precision: of the arithmetic; the losses are always reduced in float32.
        mode: on a GPU, whether a step is recorded once and replayed or launched operation by operation.
        label: what the progress is shown under.
    """
    device, count = train.targets.device, len(train.targets)
    batch = min(budget.batch_size, count)
    per_epoch = count // batch  # steps
    epochs = math.ceil(budget.steps / per_epoch)
    step = Step(module, train, budget, precision)
    run = Recorded(step) if mode == "graph" and device.type == "cuda" else step
    result, best_loss = Result(), math.inf
    best = copy_of(module)
    progress = Progress(label, epochs, budget.steps, batch)
    for epoch in range(1, epochs + 1):
        rng = np.random.default_rng([seed, epoch])
        order = torch.from_numpy(rng.permutation(count)).to(device)
        module.train()
        started = time.perf_counter()
        steps = min(per_epoch, budget.steps - (epoch - 1) * per_epoch)
        step.start(epoch, order, noise=int(rng.integers(2**62)))
        for _ in range(steps):
            run()
            progress.step()
        trained = step.means.values(steps)
        result.seconds += time.perf_counter() - started
        result.images += steps * batch
        started = time.perf_counter()
        validated = validate(module, validation, precision)
        result.validation_seconds += time.perf_counter() - started
        result.history.append(
            {"epoch": epoch}
            | {f"train_{name}": value for name, value in trained.items()}
            | {f"validation_{name}": value for name, value in validated.items()}
        )
        progress.epoch(epoch, trained["loss"], validated["loss"])
        if not math.isfinite(trained["loss"] + validated["loss"]):
            result.diverged_in_epoch = epoch
            break
        if validated["loss"] < best_loss:
            best_loss, result.best_epoch = validated["loss"], epoch
            best = copy_of(module)
    progress.close()
    module.load_state_dict(best)
    return result


class Step:
    """A training step that finds all it needs on the device, in tensors that stay where they are: the data and their
    order, the learning rates, where it stands in both, the sums of the losses. So it never waits for the device, and a
    GPU can replay it.
    """

    def __init__(self, module: Learner, train: Pairs, budget: Budget, precision: Precision) -> None:
        device, count = train.targets.device, len(train.targets)
        batch = min(budget.batch_size, count)
        self.module, self.train, self.precision = module, train, precision
        self.optimiser = Adam(module.parameters())
        self.generator = torch.Generator(device)
        self.rates = one_cycle(budget.steps, budget.learning_rate).float().to(device)
        self.batches = torch.zeros(count // batch, batch, dtype=torch.int64, device=device)  # of this epoch, indices
        self.epoch, self.position, self.done = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(3))
        self.means = Means()

    def start(self, epoch: int, order: Tensor, noise: int) -> None:
        """Begin an epoch with the samples in `order`, (N,), and all noise seeded by `noise`."""
        self.batches.copy_(order[: self.batches.numel()].view_as(self.batches))
        self.generator.manual_seed(noise)
        self.epoch.fill_(epoch)
        self.position.zero_()
        self.means.reset()

    def __call__(self) -> None:
        """Learn from the next batch of the epoch."""
        inputs, targets = self.train
        count, versions = len(targets), len(inputs) // len(targets)
        chosen = self.batches.index_select(0, self.position)[0]
        y = targets[chosen]
        x = y if versions == 1 else inputs[(chosen + self.epoch) % versions * count + chosen]
        losses = losses_of(self.module, x, y, self.generator, self.precision)
        self.optimiser.zero_grad()
        losses["loss"].backward()
        self.optimiser.step(self.rates.index_select(0, self.done)[0])
        self.means.add(losses)
        self.position += 1
        self.done += 1


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
        except RuntimeError as error:
            msg = f"a training step cannot be recorded as a CUDA graph; set training.mode to eager ({error})"
            raise UserError(msg) from error


@torch.no_grad()
def validate(module: Learner, pairs: Pairs, precision: Precision) -> dict[str, float]:
    """The named losses over a whole split, with the same noise at every call; changes no state of the training."""
    module.eval()
    generator = torch.Generator(pairs.targets.device).manual_seed(0)
    means = Means()
    for x, y in zip(pairs.inputs.split(VALIDATION_BATCH), pairs.targets.split(VALIDATION_BATCH), strict=True):
        means.add(losses_of(module, x, y, generator, precision), weight=len(y))
    return means.values(len(pairs.targets))


def shape_of(images: Pairs) -> Shape:
    """(C, H, W) of stored images."""
    _, channels, height, width = images.targets.shape
    return channels, height, width


@torch.no_grad()
def represent(phase: Phase, images: Pairs) -> Pairs:
    """What the module of `phase` learns from: the images, or a representation of the clean ones."""
    if phase.represent is None:
        return images
    represented = torch.cat([phase.represent(as_float(x)) for x in images.targets.split(VALIDATION_BATCH)])
    return Pairs(represented, represented)


def losses_of(module: Learner, x: Tensor, y: Tensor, generator: torch.Generator, precision: Precision) -> Losses:
    """The module's losses on a stored batch, its arithmetic in `precision`."""
    with torch.autocast(y.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return module.loss(as_float(x), as_float(y), generator)


def as_float(stored: Tensor) -> Tensor:
    """Images are stored as uint8 and become floats in [0, 1]; codes are integers of 64 bits and stay as they are."""
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's state, detached from what training goes on to change."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


class Means:
    """Weighted means of named losses, summed in place on the device; only reading them waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: Losses, weight: int = 1) -> None:
        """Count `losses` with `weight`."""
        for name, value in losses.items():
            self.sums.setdefault(name, torch.zeros_like(value)).add_(value.detach(), alpha=weight)

    def values(self, weight: int) -> dict[str, float]:
        """The means over what has been added, `weight` altogether."""
        return {name: value.item() / weight for name, value in self.sums.items()}

    def reset(self) -> None:
        """Start anew."""
        for value in self.sums.values():
            value.zero_()


class Progress:
    """A bar with throughput and time left on a terminal; a plain line now and then elsewhere, and where several
    processes share the terminal.
    """

    def __init__(self, label: str, epochs: int, steps: int, batch: int) -> None:
        self.label, self.epochs, self.steps, self.batch, self.done = label, epochs, steps, batch, 0
        self.live = sys.stderr.isatty() and parent_process() is None
        self.bar = tqdm(
            total=steps * batch, desc=label, unit=" img", unit_scale=True, disable=not self.live, leave=False
        )
        self.started = time.perf_counter()

    def step(self) -> None:
        """One batch is done."""
        self.done += 1
        self.bar.update(self.batch)

    def epoch(self, epoch: int, train: float, validation: float) -> None:
        """One epoch is done, with these losses."""
        self.bar.set_postfix_str(f"train {train:.5g}, validation {validation:.5g}")
        ten_lines = max(1, self.epochs // 10)
        if not self.live and (epoch % ten_lines == 0 or epoch == self.epochs):
            seconds = time.perf_counter() - self.started
            left = seconds / self.done * (self.steps - self.done)
            print(
                f"{self.label}: epoch {epoch}/{self.epochs}, train {train:.5g}, validation {validation:.5g}, "
                f"{self.done * self.batch / seconds:,.0f} img/s, {left:.0f} s left",
                flush=True,
            )

    def close(self) -> None:
        """The training is over."""
        self.bar.close()
