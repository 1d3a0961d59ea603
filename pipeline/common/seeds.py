"""Runs the seeds of an entry side by side, each in its own process."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from aelab.core import devices
from pipeline.common import params, resources
from pipeline.common.signals import LISTENER

T = TypeVar("T")


def for_each_seed(
    work: Callable[[params.Params, str, int], T], checked: params.Params, entry: str, *, timed: bool
) -> dict[int, T]:
    """Call `work(parameters, entry, seed)` for every seed, several at once, and return the results by seed.

    Several seeds run at once because small models leave a GPU idle, and a training on a CPU uses few cores. If a seed
    in a process of its own fails, the error is raised after all other seeds have ended.

    Args:
        work: function of the parameters, an entry's name and a seed.
        checked: the checked parameters.
        entry: name of the entry.
        timed: whether the results include the time that `work` takes. Otherwise, `work` has low priority and uses all
            cores. If the work is not `timed`, one extra process keeps the cores of a CPU busy while another process
            waits.
    """
    device, its_seeds = devices.prepare(checked.training.device, checked.training.threads), checked.seeds_of(entry)
    on_gpu = device.type != "cpu"
    at_once = side_by_side(checked, device, resources.cpus() if timed else resources.all_cpus())
    behind = not timed and not on_gpu and at_once > 1  # one extra process, which computes while another waits
    workers = min(len(its_seeds), at_once + behind)
    os.environ[devices.SHARED] = str(resources.per_gpu() or max(1, workers))
    os.environ[devices.FREE] = str(max(1, devices.free_memory() // max(1, workers)))
    if not timed:
        os.nice(resources.BEHIND)
    if workers <= 1:
        return {seed: work(checked, entry, seed) for seed in its_seeds}
    # A fork saves a second import of torch. A fork is safe only while torch has started no thread. Therefore the
    # earlier check of the parameters builds the models on the meta device, which computes nothing. On a GPU, processes
    # are spawned, because a forked process cannot use a GPU that its parent has used; on macOS, because macOS's
    # libraries start threads.
    forks = sys.platform == "linux" and not on_gpu and not torch.cuda.is_initialized()
    context = get_context("fork" if forks else "spawn")
    with ProcessPoolExecutor(workers, context, _begin, (LISTENER.polls,)) as pool:
        content = checked.model_dump()
        running = {seed: pool.submit(_in_worker, work, content, entry, seed) for seed in its_seeds}
        try:
            wait(running.values())
            return {seed: future.result() for seed, future in running.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def side_by_side(checked: params.Params, device: torch.device, cpus: int) -> int:
    """Number of seeds of an entry that may run at once; 0 if one seed alone needs more than `cpus`."""
    return (resources.per_gpu() if device.type != "cpu" else None) or cpus // checked.training.threads


def _begin(polls: bool) -> None:  # noqa: FBT001 - ProcessPoolExecutor passes by position
    LISTENER.listen(polls=polls)


def _in_worker(work: Callable[[params.Params, str, int], T], content: dict[str, Any], entry: str, seed: int) -> T:
    return work(params.check(content), entry, seed)
