"""One training by several processes: each computes its rows of every batch, and it is as if one had seen them all.

    rows       rank r of P has the rows ⌊B·r/P⌋ to ⌊B·(r + 1)/P⌋ of a batch of B, one after the other
    gradient   ∂/∂θ 1/B Σ_i ℓ_i = Σ_r B_r/B · ∂/∂θ (1/B_r Σ_{i of r} ℓ_i): the sum over the ranks of B_r/B times theirs
    noise      every rank draws that of the whole batch, and takes its rows: it depends on the sample, not on the rank

All processes hold the same state, to the bit: what they add up is the same sum for all of them. With another number of
processes it is added up in another order. A batch of fewer samples than processes is computed by each of them.

The processes are those of the default group of `torch.distributed`. Without it, and outside of `split`, every function
here gives back what it is given. CPUs add up through gloo, GPUs through NCCL.
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

MEETS_WITHIN = timedelta(minutes=2)  # at the start, where another one may have died; gloo connects five times as long
PATIENCE = timedelta(days=1)  # with a process that does not answer; one that dies is noticed at once
LAG = 8  # steps after which a GPU's host reads what its processes have agreed on: it never waits for the last ones


class ProcessLost(Exception):  # noqa: N818 - what the others are
    """Another process of the group is gone."""


@dataclass(frozen=True)
class Share:
    """This process's part of a batch: the rows `start` to `stop` of `total`."""

    start: int = 0
    stop: int = 1
    total: int = 1  # 1: it has the whole batch, however large that is
    weight: float = 1.0  # of its mean in the mean over all processes

    def whole(self, count: int) -> int:
        """How many rows the processes have together where this one has `count`; several may stand for a sample."""
        return count // (self.stop - self.start) * self.total

    def rows(self, count: int) -> slice:
        """Where the `count` rows of this process are among those of all."""
        each = count // (self.stop - self.start)
        return slice(each * self.start, each * self.stop)

    @classmethod
    def of(cls, total: int) -> "Share":
        """That of a batch of `total` samples."""
        if total < size():
            return cls(weight=1 / size())
        start, stop = (total * at // size() for at in (rank(), rank() + 1))
        return cls(start, stop, total, (stop - start) / total) if size() > 1 else cls()


_share = Share()  # of the batch that is being computed
_asked: Callable[[], bool] = lambda: False  # noqa: E731 - whether this process is to stop
_stopping = False  # whether one of them is


def begin(device: torch.device, asked: Callable[[], bool] = lambda: False) -> None:
    """Join the processes that `torchrun` has started with this one; `asked` says when this one is to stop."""
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
    """Leave them."""
    if size() > 1:
        distributed.destroy_process_group()


def size() -> int:
    """P, the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """r of this one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def first() -> bool:
    """Whether this is the one that writes."""
    return rank() == 0


def stopping() -> bool:
    """Whether one of the processes was asked to stop, which all learn after the same step."""
    return _stopping


def rows(total: int) -> slice:
    """This process's rows of a batch of `total` samples."""
    share = Share.of(total)
    return slice(0, total) if share.total == 1 else slice(share.start, share.stop)


@contextmanager
def split(total: int) -> Iterator[Share]:
    """What is computed in this block is this process's share of a batch of `total` samples."""
    global _share  # noqa: PLW0603
    before, _share = _share, Share.of(total)
    try:
        yield _share
    finally:
        _share = before


def draw(function: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """This process's rows of what `function` (such as `torch.randn`) draws for the whole batch: `shape`."""
    drawn = function((_share.whole(shape[0]), *shape[1:]), generator=generator, device=generator.device)
    return drawn[_share.rows(shape[0])]


def whole(count: int) -> int:
    """How many rows the whole batch has where this process has `count`."""
    return _share.whole(count)


def mean(x: Tensor) -> Tensor:
    """The mean over the whole batch of what is a mean over each process's share; no gradient passes."""
    return x if _share.total == 1 else _sum(x.detach() * _share.weight)


def gather(x: Tensor) -> Tensor:
    """The rows of the whole batch in their order, with gradients: (B_r, …) → (B, …)."""
    return x if _share.total == 1 else _Gather.apply(x, _share)


def pick(x: Tensor, chosen: Tensor) -> Tensor:
    """The rows `chosen`, (K,), of the whole batch, of which this process has `x`, (B_r, D); no gradient: (K, D)."""
    if _share.total == 1:
        return x[chosen]
    mine = _share.rows(len(x))
    here = (chosen >= mine.start) & (chosen < mine.stop)
    found = x.detach()[(chosen - mine.start).clamp(0, len(x) - 1)]
    return _sum(torch.where(here[:, None], found, 0.0))


def reduce(
    parameters: Sequence[nn.Parameter], losses: dict[str, Tensor], share: Share, stop_votes: "StopVotes"
) -> dict[str, Tensor]:
    """Make each parameter's gradient the sum over all processes, and the losses those of the whole batch.

    All of it travels at once. The loss that the gradients are of was weighted by the share already.
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
    """Sums over the processes of what each has added up."""
    if size() == 1:
        return losses
    return dict(zip(losses, _sum(torch.stack(list(losses.values()))).unbind(), strict=True))


def any_of(flag: bool, device: torch.device) -> bool:  # noqa: FBT001
    """Whether `flag` is set in any of the processes; waits for all of them."""
    return flag if size() == 1 else bool(_sum(torch.tensor([float(flag)], device=device)))


def agree(what: str, device: torch.device) -> bool:
    """Whether `what` is the same in all processes; waits for all of them."""
    if size() == 1:
        return True
    digest = int.from_bytes(hashlib.sha256(what.encode()).digest()[:6], "big")  # a float64 holds it
    found = torch.zeros(size(), dtype=torch.float64, device=device)
    found[rank()] = digest
    return bool((_sum(found) == digest).all())


def check_same(fingerprint: str, device: torch.device) -> None:
    """See that all processes are at the same training.

    Raises:
        UserError: they are not.
    """
    if not agree(fingerprint, device):
        msg = "the processes of a training differ in parameters, code, data, versions or hardware: let all be the same"
        raise UserError(msg)


class StopVotes:
    """Whether any process is to stop, as every one of them learns after the same step: a number beside the gradients.

    A GPU is told before a step and asked some steps later, so that nothing waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.mine, self.all = torch.zeros(1, device=device), torch.zeros(1, device=device)
        self.lag = LAG if device.type == "cuda" else 0
        self.coming: deque[tuple[Tensor, Any]] = deque()

    def sync(self) -> None:
        """After a step, outside of what is recorded."""
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
    """All of a gradient in the order in which it lies in memory, which is that of its parameter."""
    return gradient.as_strided((gradient.numel(),), (1,))


class _Gather(torch.autograd.Function):
    """Every process's loss may depend on all rows, so a row's gradient is the sum of what all of them have for it."""

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
    """The sum over all processes, in place; the same bits for each of them."""
    with _together():
        distributed.all_reduce(x)
    return x


@contextmanager
def _together() -> Iterator[None]:
    """What all processes do at once fails where one is missing."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        msg = f"another process of this training is gone: {error}"
        raise ProcessLost(msg) from error


def check(processes: int) -> None:
    """See that the group is as large as the parameters say.

    Raises:
        UserError: it is not.
    """
    if size() != processes:
        msg = f"training.processes is {processes}, but {size()} take part: see what torchrun was told"
        raise UserError(msg)
