"""Training curve, with losses that arrive late from a GPU, and the progress display in a terminal."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing import parent_process
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm.auto import tqdm

from aelab.core import process_group
from aelab.core.progress import EVERY
from aelab.models.base import Losses

Point: TypeAlias = dict[str, Any]  # "step", "time" and the losses, "train_…" or "validation_…"
RISE = 1.5  # the loss was rising before a divergence if it was above this multiple of its minimum


class Curve:
    """The points of a training curve, each with the time of its arrival.

    `put` starts the transfer of losses from the device. `collect` takes the losses that have arrived, in order, and
    passes them to `follow`. The first loss that is not finite ends the curve.

    Args:
        progress: the progress display.
        device: the device of the training.
        follow: function that receives each new point.

    Attributes:
        points: the points so far.
        diverged: the step at which a loss was not finite; 0 if all losses were finite.
        cause: the probable cause of the divergence, in a sentence.
    """

    def __init__(self, progress: "Progress", device: torch.device, follow: Callable[[Point], None]) -> None:
        self.progress, self.follow = progress, follow
        self.gpu = device.type == "cuda"
        self.coming: deque[tuple[str, int, list[str], Tensor, torch.cuda.Event | None]] = deque()
        self.points: list[Point] = []
        self.diverged = 0
        self.cause = ""

    def go_on(self, points: list[Point]) -> None:
        """Continue a curve after the `points` of a snapshot, which are not passed to `follow` again."""
        self.points = points
        self.progress.go_on(points[-1]["step"] if points else 0)

    def put(self, split: str, step: int, losses: Losses) -> None:
        """Start the transfer of the losses of a split ("train" or "validation") at `step`."""
        values, event = torch.stack(list(losses.values())), None
        if self.gpu:
            event = torch.cuda.Event()
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            event.record()
        self.coming.append((split, step, list(losses), values, event))

    def collect(self, *, wait: bool = False) -> bool:
        """Take the losses that have arrived, or with `wait` all losses. Return whether the training has diverged."""
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
        """Explain why `losses` are not finite, from the course of the earlier losses."""
        which = ", ".join(f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value))
        before = [point[f"{split}_loss"] for point in self.points if f"{split}_loss" in point]
        if not before:
            return f"{which} from the start: the initial weights, an input or a parameter of the model is too large"
        if before[-1] > RISE * min(before):
            return (
                f"{which} after the loss rose from {min(before):.3g} to {before[-1]:.3g}: the learning rate is "
                "probably too high"
            )
        return f"{which} after a loss of {before[-1]:.3g}: an overflow, a division by zero or a logarithm of zero"


class Progress:
    """Progress of a training, with throughput and time left.

    A terminal or a notebook shows a bar. Elsewhere, and in a child process that shares the terminal, the class
    prints plain lines. A line appears at each validation, and at the first point after 10 seconds without a line.

    Args:
        label: name in front of each line.
        steps: steps of the training.
        batch: images in a step.
    """

    def __init__(self, label: str, steps: int, batch: int) -> None:
        self.label, self.steps, self.batch = label if process_group.first() else "", steps, batch
        self.losses: dict[str, float] = {}
        alone = parent_process() is None and process_group.first()
        self.live = alone and (sys.stderr.isatty() or tqdm.__module__ == "tqdm.auto")
        self.bar = tqdm(
            total=steps * batch, desc=label, unit=" img", unit_scale=True, disable=not self.live, leave=False
        )
        self.started, self.said, self.before = time.perf_counter(), 0.0, 0

    def go_on(self, step: int) -> None:
        """Continue after the first `step` steps, which an earlier process has done."""
        self.before = step
        self.bar.update(step * self.batch)

    def reached(self, step: int, split: str, loss: float) -> None:
        """Show that `step` steps are done, and the newest `loss` of a split."""
        self.losses[split] = loss
        self.bar.set_postfix_str(", ".join(f"{name} {value:.5g}" for name, value in self.losses.items()), refresh=False)
        self.bar.update(step * self.batch - self.bar.n)
        seconds = time.perf_counter() - self.started
        due = split == "validation" or seconds - self.said >= EVERY
        if due and not self.live and self.label:
            self.said = seconds
            speed = (step - self.before) / seconds
            losses = ", ".join(f"{name} {value:.5g}" for name, value in self.losses.items())
            print(
                f"{self.label}: step {step:,}/{self.steps:,}, {losses}, {speed * self.batch:,.0f} img/s, "
                f"{(self.steps - step) / speed:.0f} s left",
                flush=True,
            )

    def close(self) -> None:
        """Close the display at the end of the training."""
        self.bar.close()
