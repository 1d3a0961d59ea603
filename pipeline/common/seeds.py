"""Runs a function for all seeds of an entry at once, each seed in its own process.

An entry is the configuration of a model in `params.yaml`.
"""

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
    """Call `work(parameters, entry, seed)` for every seed of an entry, and return a dictionary from seeds to results.

    Several seeds run at once, because a small model does not use a whole GPU, and a training on a CPU uses few cores.
    If one of several processes fails, the error is raised after all processes have ended.

    Args:
        work: function of the parameters, an entry's name and a seed.
        checked: the checked parameters.
        entry: name of the entry.
        timed: whether the results contain the run time of `work`. If not, `work` runs with low priority on all cores.
            On a CPU, one extra process then uses the cores while another process is idle.
    """
    device, its_seeds = devices.prepare(checked.training.device, checked.training.threads), checked.seeds_of(entry)
    on_gpu = device.type != "cpu"
    at_once = side_by_side(checked, device, resources.cpus() if timed else resources.all_cpus())
    behind = not timed and not on_gpu and at_once > 1  # add one process, which computes while another waits
    workers = min(len(its_seeds), at_once + behind)
    os.environ[devices.SHARED] = str(resources.per_gpu() or max(1, workers))
    os.environ[devices.FREE] = str(max(1, devices.free_memory() // max(1, workers)))
    if not timed:
        os.nice(resources.BEHIND)
    if workers <= 1:
        return {seed: work(checked, entry, seed) for seed in its_seeds}
    # A forked process does not need to import torch again. But a fork is safe only if torch has not started threads.
    # Therefore the check of the parameters builds the models on the meta device, which computes nothing. For a GPU,
    # processes are spawned, because a forked process cannot use a GPU that its parent has used. On macOS, processes are
    # spawned, because macOS's libraries start threads.
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
    """Number of seeds that may run at once.

    On a GPU, the number is $AELAB_PER_GPU, if this variable is set. Otherwise, the number is `cpus` divided by the
    threads of one training, rounded down.
    """
    return (resources.per_gpu() if device.type != "cpu" else None) or cpus // checked.training.threads


def _begin(polls: bool) -> None:  # noqa: FBT001 - ProcessPoolExecutor passes by position
    LISTENER.listen(polls=polls)


def _in_worker(work: Callable[[params.Params, str, int], T], content: dict[str, Any], entry: str, seed: int) -> T:
    return work(params.check(content), entry, seed)
