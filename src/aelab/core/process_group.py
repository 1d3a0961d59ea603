"""Data-parallel training: several processes train one model. Each process computes a part of every mini-batch.

The results equal the results of a single process up to rounding. With B samples per batch and P processes:

    samples    process r (its rank) computes the B_r samples i of the batch with ⌊B·r/P⌋ ≤ i < ⌊B·(r + 1)/P⌋
    gradient   ∂/∂θ 1/B Σ_i ℓ_i = Σ_r B_r/B · ∂/∂θ (1/B_r Σ_{i of r} ℓ_i): each process's gradient, weighted by B_r/B
    noise      every process draws the noise of the whole batch, and uses the part for its own samples

If B < P, each process computes the whole batch. Some tensors have several rows for each sample. For example, a latent
grid of h×w places has h·w rows for each sample, and each row is a vector.

Weights and optimiser states have the same bits in all processes, because each sum over the processes has the same bits
in every process. Another number of processes changes the order of the additions, and thus the last bits of results.

The processes form the default group of `torch.distributed`, which uses gloo on CPUs and NCCL on GPUs. Without a group,
or outside of a `split` block, the functions treat the samples of this process as the whole batch.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from aelab.core.errors import UserError

MEETS_WITHIN = timedelta(minutes=2)  # Timeout for joining the group. Connections of gloo may take five times as long.
PATIENCE = timedelta(days=1)  # Timeout for an answer of another process. Gloo notices the end of that process at once.
LAG = 8  # Steps until a process reads the sum of the votes (`StopVotes`) from its GPU. By then, the sum is ready.


class ProcessLost(Exception):  # noqa: N818 - not an error of the caller
    """Raised when another process of the group has ended or does not answer."""


@dataclass(frozen=True)
class Share:
    """Part of a batch that this process computes: by default the whole batch.

    Attributes:
        start: Index of this process's first sample in the batch.
        stop: Index after this process's last sample.
        total: Number of samples in the whole batch. The value 1 means that this process computes the whole batch.
        weight: Weight of this process's mean in the mean over the whole batch. The weights of all processes sum to 1.
    """

    start: int = 0
    stop: int = 1
    total: int = 1
    weight: float = 1.0

    def whole(self, count: int) -> int:
        """Number of a tensor's rows in the whole batch, if `count` of these rows belong to this process."""
        return count // (self.stop - self.start) * self.total

    def rows(self, count: int) -> slice:
        """Position of this process's `count` rows among the rows of the whole batch, as a slice."""
        each = count // (self.stop - self.start)
        return slice(each * self.start, each * self.stop)

    @classmethod
    def of(cls, total: int) -> "Share":
        """Share of this process in a batch of `total` samples."""
        if total < size():
            return cls(weight=1 / size())
        start, stop = (total * at // size() for at in (rank(), rank() + 1))
        return cls(start, stop, total, (stop - start) / total) if size() > 1 else cls()


_share = Share()  # this process's part of the current batch
_asked: Callable[[], bool] = lambda: False  # noqa: E731 - whether this process was asked to stop
_stopping = False  # whether any process of the group was asked to stop


def begin(device: torch.device, asked: Callable[[], bool] = lambda: False) -> None:
    """Join the group of processes that `torchrun` has started.

    Args:
        device: Device of the training. With "cuda", the process uses the GPU with the number `LOCAL_RANK`.
        asked: Function that returns whether this process was asked to stop.

    Raises:
        ProcessLost: Another process did not join in time.
    """
    global _asked, _stopping
    _asked, _stopping = asked, False
    own = None
    if device.type == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    with _together():
        store, own_rank, processes = next(rendezvous("env://", timeout=MEETS_WITHIN))
        distributed.init_process_group(
            "nccl" if own else "gloo",
            store=store,
            rank=own_rank,
            world_size=processes,
            timeout=MEETS_WITHIN,
            device_id=own,
        )
        distributed.set_timeout(PATIENCE)


def end() -> None:
    """Leave the group."""
    if size() > 1:
        distributed.destroy_process_group()


def size() -> int:
    """Number P of processes; 1 without a group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Rank r of this process, from 0 to P − 1."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def first() -> bool:
    """Whether this process has rank 0. Only rank 0 writes files."""
    return rank() == 0


def stopping() -> bool:
    """Whether any process was asked to stop. The answer becomes true after the same step in all processes."""
    return _stopping


def own_samples(total: int) -> slice:
    """Samples that this process computes, as a slice of a batch of `total` samples."""
    share = Share.of(total)
    return slice(0, total) if share.total == 1 else slice(share.start, share.stop)


@contextmanager
def split(total: int) -> Iterator[Share]:
    """Context in which this process computes its share of a batch of `total` samples.

    Inside the `with` block, the functions `draw`, `whole`, `mean`, `gather` and `pick` refer to this batch.
    """
    global _share  # noqa: PLW0603
    before, _share = _share, Share.of(total)
    try:
        yield _share
    finally:
        _share = before


def draw(function: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw random numbers for the whole batch, and return the numbers for this process's rows.

    Args:
        function: Function that draws, such as `torch.randn`.
        shape: Shape of the result. Its first dimension is the number of rows of this process.
        generator: Generator with the same state in all processes.
    """
    drawn = function((_share.whole(shape[0]), *shape[1:]), generator=generator, device=generator.device)
    return drawn[_share.rows(shape[0])]


def whole(count: int) -> int:
    """Number of a tensor's rows in the whole current batch, if `count` of these rows belong to this process."""
    return _share.whole(count)


def mean(x: Tensor) -> Tensor:
    """Mean over the whole batch, from the mean `x` over this process's samples.

    If the batch is split, the result has no gradients.
    """
    return x if _share.total == 1 else _sum(x.detach() * _share.weight)


def gather(x: Tensor) -> Tensor:
    """Concatenate the rows `x` of all processes in the order of the batch, with gradients: (B_r, …) → (B, …)."""
    return x if _share.total == 1 else _Gather.apply(x, _share)


def pick(x: Tensor, chosen: Tensor) -> Tensor:
    """Rows of the whole batch at the indices `chosen`, (K, D). If the batch is split, the rows have no gradients.

    Args:
        x: Rows of this process, (B_r, D).
        chosen: Indices into the whole batch, (K,).
    """
    if _share.total == 1:
        return x[chosen]
    mine = _share.rows(len(x))
    here = (chosen >= mine.start) & (chosen < mine.stop)
    found = x.detach()[(chosen - mine.start).clamp(0, len(x) - 1)]
    return _sum(torch.where(here[:, None], found, 0.0))


def reduce(
    parameters: Sequence[nn.Parameter], losses: dict[str, Tensor], share: Share, stop_votes: "StopVotes"
) -> dict[str, Tensor]:
    """Sum each parameter's gradient over all processes in place, and return the losses of the whole batch.

    A single operation of the group adds up the gradients, the losses and the votes on stopping.

    Args:
        parameters: Parameters of the model. Their gradients come from the loss times `share.weight`.
        losses: Losses by name. Each is a mean over this process's samples, not yet multiplied by `share.weight`.
        share: This process's share of the batch.
        stop_votes: Votes on stopping. The function writes the sum of all votes to `stop_votes.all`.
    """
    if size() == 1:
        return losses
    learned = [parameter for parameter in parameters if parameter.grad is not None]
    values = torch.stack([value.detach().float() for value in losses.values()]) * share.weight
    flat = _sum(torch.cat([*(_laid_out(parameter.grad) for parameter in learned), values, stop_votes.mine]))  # type: ignore[arg-type]
    *gradients, values, asked = flat.split([*(each.numel() for each in learned), len(losses), 1])
    for parameter, gradient in zip(learned, gradients, strict=True):
        parameter.grad = gradient.as_strided(parameter.size(), parameter.stride())
    stop_votes.all.copy_(asked)
    return dict(zip(losses, values.unbind(), strict=True))


def total(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sum each loss over all processes."""
    if size() == 1:
        return losses
    return dict(zip(losses, _sum(torch.stack(list(losses.values()))).unbind(), strict=True))


def any_of(flag: bool, device: torch.device) -> bool:  # noqa: FBT001
    """Whether `flag` is set in any process. The call waits for all processes."""
    return flag if size() == 1 else bool(_sum(torch.tensor([float(flag)], device=device)))


def agree(what: str, device: torch.device) -> bool:
    """Whether the text `what` is the same in all processes. The call waits for all processes."""
    if size() == 1:
        return True
    digest = int.from_bytes(hashlib.sha256(what.encode()).digest()[:6], "big")  # exact in float64
    found = torch.zeros(size(), dtype=torch.float64, device=device)
    found[rank()] = digest
    return bool((_sum(found) == digest).all())


def check_same(fingerprint: str, device: torch.device) -> None:
    """Check that all processes run the same training, which `fingerprint` identifies.

    Raises:
        UserError: `fingerprint` differs between processes.
    """
    if not agree(fingerprint, device):
        msg = "the processes of a training differ in parameters, code, data, versions or hardware: make them equal"
        raise UserError(msg)


class StopVotes:
    """Votes by which the processes agree to stop the training after the same step.

    In each step, every process votes 1 if it was asked to stop, else 0. `reduce` adds up the votes together with the
    gradients. If the sum is above 0, all processes stop. The sum on a GPU is read `LAG` steps later, so that no process
    waits for its GPU.

    Attributes:
        mine: Vote of this process in the next step, (1,).
        all: Sum of the votes of all processes in the last step, (1,).
    """

    def __init__(self, device: torch.device) -> None:
        self.mine, self.all = torch.zeros(1, device=device), torch.zeros(1, device=device)
        self.lag = LAG if device.type == "cuda" else 0
        self.coming: deque[tuple[Tensor, Any]] = deque()

    def sync(self) -> None:
        """Update what `stopping` returns, from the sum of the votes. Set this process's vote for the next step.

        Call the method after each step, outside of a CUDA graph.
        """
        global _stopping  # noqa: PLW0603
        if size() == 1:
            return
        if self.lag:
            event = torch.cuda.Event()
            self.coming.append((torch.empty(1, pin_memory=True).copy_(self.all, non_blocking=True), event))
            event.record()
        else:
            self.coming.append((self.all.clone(), None))
        if len(self.coming) > self.lag:
            stop_votes, event = self.coming.popleft()
            if event is not None:
                event.synchronize()
            _stopping = stop_votes.item() > 0
        self.mine.fill_(float(_asked()))


def _laid_out(gradient: Tensor) -> Tensor:
    """View of a gradient as a vector, in the order of its values in memory, which is also the parameter's order."""
    return gradient.as_strided((gradient.numel(),), (1,))


class _Gather(torch.autograd.Function):
    """Concatenates the rows of all processes. In the backward pass, each row's gradient is summed over all processes.

    The sum is needed because the loss of every process may depend on all rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Share) -> Tensor:
        ctx.rows = share.rows(len(x))
        whole = x.new_zeros((share.whole(len(x)), *x.shape[1:]))
        whole[ctx.rows] = x
        return _sum(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _sum(gradients[0].clone())[ctx.rows], None


def _sum(x: Tensor) -> Tensor:
    """Sum over all processes, in place. Every process gets the same bits."""
    with _together():
        distributed.all_reduce(x)
    return x


@contextmanager
def _together() -> Iterator[None]:
    """Context for an operation of the whole group. If another process is gone, the context raises `ProcessLost`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        msg = f"another process of this training is gone: {error}"
        raise ProcessLost(msg) from error


def check(processes: int) -> None:
    """Check that the group has as many processes as the parameters say.

    Raises:
        UserError: The group has more or fewer processes.
    """
    if size() != processes:
        msg = f"training.processes is {processes}, but torchrun started {size()}: make the two numbers equal"
        raise UserError(msg)
