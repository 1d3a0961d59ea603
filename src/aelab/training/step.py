"""One training step, on any device, eager or as a CUDA graph."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from aelab.core import devices, process_group
from aelab.core.errors import UserError
from aelab.core.settings import Budget, Precision
from aelab.core.tensors import as_float, binarise, device_of
from aelab.models.base import Batch, Learner, Losses
from aelab.training.batches import Source
from aelab.training.schedules import SCHEDULES

EAGER_STEPS = 3  # before a step is recorded: libraries set themselves up, and the module is watched for counting


class Step:
    """A training step that finds all it needs on the device, in tensors that stay where they are: the batches, the
    learning rates, where it stands, the sums of the losses. So it never waits for the device, and a GPU can replay it.

    Raises:
        UserError: a number that the module keeps outside of tensors changes from step to step, which a CUDA graph would
            freeze; an operation has no deterministic kernel; or processes that share the training draw from torch's own
            generator, whose state would differ among them.
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
        self.optimiser = Adam(module.parameters(), budget.epsilon)
        self.generator = torch.Generator(device)
        self.rates = SCHEDULES[budget.schedule](budget.steps, budget.learning_rate).float().to(device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.means = Means()
        self.stop_votes = process_group.StopVotes(device)
        self.calls = 0
        self.host: dict[str, Any] = {}

    def __call__(self) -> None:
        """Learn from the next batch."""
        own = devices.default_generator(self.position.device)
        drawn = own.get_state() if process_group.size() > 1 and self.calls < EAGER_STEPS else None
        try:
            self._learn()
        except RuntimeError as error:
            if sentence := undetermined(self.module, str(error)):
                raise UserError(sentence) from error
            raise
        if drawn is not None and not drawn.equal(own.get_state()):
            msg = (
                f"{type(self.module).__name__} draws from torch's own generator, as nn.Dropout does, which several "
                "processes cannot share: draw from batch.generator, or set training.processes to 1"
            )
            raise UserError(msg)
        self._forbid_counting()

    def _learn(self) -> None:
        with process_group.split(self.batches.batch) as share:
            inputs, targets = map(as_float, self.batches())
            if self.dynamic:
                inputs, targets = binarise(self.generator, inputs, targets)
            batch = Batch(inputs, targets, self.generator, self.position[0], self.steps, self.samples)
            losses = losses_of(self.module, batch, self.precision)
            self.module.zero_grad()
            (share.weight * losses["loss"]).backward()
        losses = process_group.reduce(self.optimiser.parameters, losses, share, self.stop_votes)
        self.optimiser.step(self.rates.index_select(0, self.position)[0])
        self.means.add(losses)
        self.position += 1

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


class GraphedStep:
    """A `Step` on a GPU, recorded as one CUDA graph: after that a step costs one launch instead of hundreds.

    Raises:
        UserError: when a step is recorded that waits for the device.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.ran = 0
        self.graph = torch.cuda.CUDAGraph()
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
            first: BaseException = error
            while first.__context__ is not None:  # to break off a recording is an error of its own
                first = first.__context__
            if isinstance(first, torch.OutOfMemoryError):
                raise first from error
            cause = str(first).partition("\n")[0]
            msg = f"a training step cannot be recorded as a CUDA graph; set training.mode to eager ({cause})"
            raise UserError(msg) from error


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1), as torch computes it. The class around that function, `torch.optim.Adam`,
    imports torch's compiler, which takes 1.2 s of CPU in each process.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], epsilon: float) -> None:
        self.parameters, self.epsilon = list(parameters), epsilon
        self.moments = {  # by torch's names; each has its parameter's memory layout, as the fused kernel needs
            "exp_avg": [torch.zeros_like(each) for each in self.parameters],
            "exp_avg_sq": [torch.zeros_like(each) for each in self.parameters],
            "step": [torch.zeros((), device=each.device) for each in self.parameters],
        }

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """Change the parameters that have a gradient; `rate` is a tensor, since a CUDA graph would freeze a number."""
        rows = [row for row in zip(self.parameters, *self.moments.values(), strict=True) if row[0].grad is not None]
        parameters, means, squares, steps = (list(column) for column in zip(*rows, strict=True))
        gradients = [each.grad for each in parameters]
        adam(
            parameters, gradients, means, squares, [], steps, fused=True, amsgrad=False, maximize=False,
            lr=rate, beta1=0.9, beta2=0.999, eps=self.epsilon, weight_decay=0.0,
        )  # fmt: skip


def losses_of(module: Learner, batch: Batch, precision: Precision) -> Losses:
    """The module's losses on a batch, its arithmetic in `precision`."""
    with torch.autocast(batch.targets.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return module.loss(batch)


def undetermined(module: nn.Module, error: str) -> str:
    """The sentence for an operation that torch has no deterministic kernel for, with the layers that it may be of;
    empty if `error` is another one.
    """
    found = re.match(r"(.+?) does not have a deterministic implementation", error)
    if not found:
        return ""
    kernel = found[1].replace("_", "")  # such as adaptiveavgpool2dbackwardcuda, of AdaptiveAvgPool2d
    layers = [
        f"{name} ({kind})"
        for name, part in module.named_modules()
        if name and kernel.startswith((kind := type(part).__name__).lower())
    ]
    return (
        f"{found[1]} gives other bits each time on this device{': ' if layers else ''}{', '.join(layers)}; take "
        "another layer, or training.device: cpu"
    )


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
