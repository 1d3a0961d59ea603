"""Validation during training: the losses over the validation split, and the best weights."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from aelab.core import devices, process_group
from aelab.core.settings import Precision
from aelab.core.tensors import BATCH, as_float, copy_of, device_of
from aelab.data.pairs import Pairs
from aelab.models.base import Batch, Learner, Losses
from aelab.training.step import Means, losses_of


class Validation:
    """Computes the losses over a validation split, and keeps the weights with the lowest loss.

    Every validation draws the same random numbers. A factor in the loss that grows during the training (`Batch.ramp`)
    has its final value. A validation does not change the state of the training, and the host does not wait for the
    device.

    Args:
        module: the module in training.
        pairs: inputs and targets of the validation split.
        steps: steps of the whole training.
        precision: precision of the arithmetic.
        room: largest size of `pairs`, in bytes, that may be kept on the device.
        samples: N, the number of training samples.

    Attributes:
        best: the weights with the lowest validation loss so far.
        best_loss: the validation loss of the weights in `best`, ().
        best_step: the number of training steps after which the module had the weights in `best`, ().
        alive: whether all training losses were finite so far, (). If not, later weights cannot become the best.
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
        self.alive = torch.tensor(True, device=device)
        self.watch = devices.Stopwatch(device)

    @torch.no_grad()
    def __call__(self, step: int) -> Losses:
        """Compute the mean validation losses after `step` training steps, and update the best weights."""
        with self.watch:
            self.module.eval()
            self.generator.manual_seed(0)
            means = Means()
            for x, y, count in self.resident or self._batches():
                with process_group.split(count) as share:
                    batch = Batch(as_float(x), as_float(y), self.generator, self.end, self.steps, self.samples)
                    means.add(losses_of(self.module, batch, self.precision), weight=share.weight * count)
            losses = process_group.total(means.take(self.count))
            better = (losses["loss"] < self.best_loss) & self.alive
            self.best_loss.copy_(torch.where(better, losses["loss"], self.best_loss))
            self.best_step.copy_(torch.where(better, step, self.best_step))
            for name, value in self.module.state_dict().items():
                self.best[name].copy_(torch.where(better, value, self.best[name]))
            self.module.train()
        return losses

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield this process's inputs and targets of each batch, on the device, and the size of the whole batch."""
        for x, y in self.pairs.split(BATCH):
            rows = process_group.own_samples(len(y))
            target = y[rows].to(self.device)
            yield (target if self.pairs.inputs is self.pairs.targets else x[rows].to(self.device)), target, len(y)
