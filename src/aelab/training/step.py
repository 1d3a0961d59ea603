"""One training step on any device. On an NVIDIA GPU, the step can be recorded as a CUDA graph and replayed."""

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

EAGER_STEPS = 3  # steps without a graph, before the recording; in these steps, libraries initialise themselves


class Step:
    """One training step on the next mini-batch.

    The batches, the learning rates, the number of the step and the sums of the losses are tensors on the device, at
    fixed addresses. Therefore the host does not wait for the device in a step, and a CUDA graph can replay the step.

    Args:
        module: the module to train.
        batches: source of the mini-batches.
        budget: steps, learning rate and schedule.
        precision: precision of the arithmetic.
        samples: N, the number of training samples.
        dynamic: whether each step binarises the samples at random, with a pixel's gray value as the probability of
            white.

    Raises:
        UserError: in a call, the module changes a number outside of its tensors, uses an operation without a
            deterministic kernel, or, with several processes, draws from torch's default generator.
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
        self.optimiser, self.clip = Adam(module.parameters(), budget.epsilon), budget.clip
        self.generator = torch.Generator(device)
        self.rates = SCHEDULES[budget.schedule](budget.steps, budget.learning_rate).float().to(device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.means = Means()
        self.stop_votes = process_group.StopVotes(device)
        self.calls = 0
        self.host: dict[str, Any] = {}

    def __call__(self) -> None:
        """Train on the next mini-batch."""
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
                f"{type(self.module).__name__} draws from torch's default generator, as nn.Dropout does, but processes "
                "cannot share this generator: draw from batch.generator, or set training.processes to 1"
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
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.optimiser.parameters, self.clip)
        self.optimiser.step(self.rates.index_select(0, self.position)[0])
        self.means.add(losses)
        self.position += 1

    def _forbid_counting(self) -> None:
        """Check that the third step changes no number that the module keeps outside of tensors.

        A CUDA graph would always use the number's value at the recording. The first two steps may still initialise the
        number.
        """
        self.calls += 1
        if self.calls == EAGER_STEPS - 1:
            self.host = host_numbers(self.module)
        elif self.calls == EAGER_STEPS:
            for name, value in host_numbers(self.module).items():
                if self.host.get(name) != value:
                    msg = (
                        f"{type(self.module).__name__}.{name} changes in a training step, but a CUDA graph would "
                        "keep its old value: make it a buffer (a tensor), or use batch.step"
                    )
                    raise UserError(msg)


class GraphedStep:
    """A `Step` recorded as a CUDA graph. To replay the step, the host needs one launch instead of hundreds.

    Args:
        step: the step to record.

    Raises:
        UserError: the step cannot be recorded, for example because it waits for the device.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.ran = 0
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream()

    def __call__(self) -> None:
        """Run the step. The first `EAGER_STEPS` steps run without a graph, so that libraries can initialise."""
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
            raise  # only a smaller batch would help, not the mode "eager"
        except RuntimeError as error:
            first: BaseException = error
            while first.__context__ is not None:  # the last error comes from the end of the recording
                first = first.__context__
            if isinstance(first, torch.OutOfMemoryError):
                raise first from error
            cause = str(first).partition("\n")[0]
            msg = f"a training step cannot be recorded as a CUDA graph; set training.mode to eager ({cause})"
            raise UserError(msg) from error


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1), through torch's function `adam`.

    `torch.optim.Adam` would import torch's compiler, which takes 1.2 s of CPU time in each process.

    Args:
        parameters: the parameters to train.
        epsilon: ε of Adam.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], epsilon: float) -> None:
        self.parameters, self.epsilon = list(parameters), epsilon
        self.moments = {  # in the memory layout of the parameters, because the fused kernel needs equal layouts
            "exp_avg": [torch.zeros_like(each) for each in self.parameters],
            "exp_avg_sq": [torch.zeros_like(each) for each in self.parameters],
            "step": [torch.zeros((), device=each.device) for each in self.parameters],
        }

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """Update the parameters that have a gradient, with the learning rate `rate`, ()."""
        rows = [row for row in zip(self.parameters, *self.moments.values(), strict=True) if row[0].grad is not None]
        parameters, means, squares, steps = (list(column) for column in zip(*rows, strict=True))
        gradients = [each.grad for each in parameters]
        adam(
            parameters, gradients, means, squares, [], steps, fused=True, amsgrad=False, maximize=False,
            lr=rate, beta1=0.9, beta2=0.999, eps=self.epsilon, weight_decay=0.0,
        )  # fmt: skip


def losses_of(module: Learner, batch: Batch, precision: Precision) -> Losses:
    """Compute the module's losses on a batch, with the arithmetic in `precision`."""
    with torch.autocast(batch.targets.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return module.loss(batch)


def undetermined(module: nn.Module, error: str) -> str:
    """Explain torch's error about an operation without a deterministic kernel, and name the layers that may cause it.

    Returns:
        A sentence, or an empty text if `error` is about something else.
    """
    found = re.match(r"(.+?) does not have a deterministic implementation", error)
    if not found:
        return ""
    kernel = found[1].replace("_", "")  # such as adaptiveavgpool2dbackwardcuda for AdaptiveAvgPool2d
    layers = [
        f"{name} ({kind})"
        for name, part in module.named_modules()
        if name and kernel.startswith((kind := type(part).__name__).lower())
    ]
    return (
        f"{found[1]} is not deterministic on this device{': ' if layers else ''}{', '.join(layers)}; use another "
        "layer, or set training.device to cpu"
    )


def host_numbers(module: nn.Module) -> dict[str, Any]:
    """Return the numbers that a module and its submodules keep outside of tensors, by names such as `encoder.count`."""
    return {
        f"{name}.{key}".lstrip("."): value
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, int | float) and key != "training"
    }


class Means:
    """Weighted means of named losses. The sums stay on the device, so that the host does not wait for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: Losses, weight: float = 1) -> None:
        """Add `losses`, each multiplied by `weight`, to the sums."""
        for name, value in losses.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(value, dtype=torch.float32)
            self.sums[name].add_(value.detach(), alpha=weight)

    def take(self, weight: int) -> Losses:
        """Return the sums divided by `weight`, the total of all weights, and reset the sums to 0."""
        means = {name: value / weight for name, value in self.sums.items()}
        for value in self.sums.values():
            value.zero_()
        return means
