"""Training curve (the losses of a training by step) and progress display of a training.

While a GPU still computes the losses of a step, the host already starts later steps. The host reads the losses when
they are ready.
"""

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

Point: TypeAlias = dict[str, Any]  # "step", "time", "seconds", and losses as "train_…" or "validation_…"
RISE = 1.5  # before a divergence, the loss was rising if the last value was above this multiple of the lowest value


class Curve:
    """A training curve. Each point has a step, its losses, and the time at which the losses reached the host.

    A point has this time twice: as seconds since 1970, and as seconds of training, without pauses of the training.

    `put` starts to copy losses from the device to the host. `collect` makes a point of each finished copy, in the order
    of the calls of `put`, and passes the point to `follow`. The first loss that is not finite ends the curve.

    Args:
        progress: the progress display.
        device: the device of the training.
        follow: function that receives each new point.
        elapsed: function that returns the seconds of training so far.

    Attributes:
        points: the points so far.
        diverged: the step at which a loss was not finite; 0 if all losses were finite.
        cause: the probable cause of the divergence, in a sentence.
    """

    def __init__(
        self, progress: "Progress", device: torch.device, follow: Callable[[Point], None], elapsed: Callable[[], float]
    ) -> None:
        self.progress, self.follow, self.elapsed = progress, follow, elapsed
        self.gpu = device.type == "cuda"
        self.coming: deque[tuple[str, int, list[str], Tensor, torch.cuda.Event | None]] = deque()
        self.points: list[Point] = []
        self.diverged = 0
        self.cause = ""

    def go_on(self, points: list[Point]) -> None:
        """Continue the curve of a resumed training, without passing the `points` of the snapshot to `follow` again."""
        self.points = points
        self.progress.go_on(points[-1]["step"] if points else 0)

    def put(self, split: str, step: int, losses: Losses) -> None:
        """Start to copy the losses of a split ("train" or "validation") at `step` to the host."""
        values, event = torch.stack(list(losses.values())), None
        if self.gpu:
            event = torch.cuda.Event()
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            event.record()
        self.coming.append((split, step, list(losses), values, event))

    def collect(self, *, wait: bool = False) -> bool:
        """Add the losses that have reached the host to the curve. Return whether the training has diverged.

        With `wait`, the call first waits for all losses.
        """
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
            times = {"time": time.time(), "seconds": round(self.elapsed(), 3)}
            point = {"step": step, **times, **{f"{split}_{name}": value for name, value in losses.items()}}
            self.points.append(point)
            self.follow(point)
            self.progress.reached(step, split, losses["loss"])
        return bool(self.diverged)

    def _cause(self, split: str, losses: Mapping[str, float]) -> str:
        """Name the probable cause of `losses` that are not finite. The earlier losses show whether the loss rose."""
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
    """Progress display of a training, with the losses, the images per second and the time left.

    In a terminal or a notebook, the display is a progress bar. Without a terminal, or in a child process, the display
    prints a line at each validation. At any other point of the curve, the display prints a line only if 10 seconds have
    passed since the last line.

    Args:
        label: name in front of the bar and of each line.
        steps: number of steps of the training.
        batch: number of images in a step.
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
        """Continue the display of a resumed training. An earlier process has done the first `step` steps."""
        self.before = step
        self.bar.update(step * self.batch)

    def reached(self, step: int, split: str, loss: float) -> None:
        """Show that the training has done `step` steps, and show the newest `loss` of a split."""
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
