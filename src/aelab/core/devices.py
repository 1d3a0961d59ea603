"""Devices for models: choice of a CPU or GPU, deterministic arithmetic, memory limits, measurement of time."""

import ctypes
import os
import platform
import re
import resource
import sys
import time
from collections import deque
from functools import cache
from typing import Any

import psutil
import torch

from aelab.core import containers
from aelab.core.environment import whole_number
from aelab.core.errors import UserError

MEMORY = "AELAB_MEMORY"  # maximum MiB of images that one training keeps in memory, set by the user
SHARED = "AELAB_SHARED"  # number of trainings that share a GPU, set by the process that starts the trainings
FREE = "AELAB_FREE"  # bytes of RAM for each training: an equal part of the RAM that was free before the trainings began
PROCESSES = "LOCAL_WORLD_SIZE"  # number of processes of a training on this machine, set by torchrun
NONE = "this machine has no usable GPU of that kind"
KINDS = ("auto", "cpu", "cuda", "mps")
AHEAD = 32  # training steps that this process may run ahead of its GPU (`Pace`)
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


def prepare(name: str, threads: int) -> torch.device:
    """Return the torch device `name`, and make the arithmetic of this process deterministic.

    The function changes global settings of torch, so call it before the first computation. To check that the
    device can be used, call `unusable`.

    Args:
        name: "cpu", "cuda" (an NVIDIA GPU), "mps" (an Apple GPU), or "auto" (the result of `chosen`).
        threads: Number of CPU threads, at least 1. The last bits of a sum depend on this number, so keep it fixed for
            reproducible results.

    Returns:
        The device.

    Raises:
        UserError: `name` is none of these four names.
    """
    if name not in KINDS:
        msg = f"there is no device {name!r}; there are {', '.join(KINDS)}"
        raise UserError(msg)
    torch.set_num_threads(threads)
    _keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA reads the variable when it starts
    torch.set_deterministic_debug_mode("error")  # like use_deterministic_algorithms, but imports no compiler
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # no rounding of float32 to TF32
    torch.backends.cuda.matmul.allow_tf32 = False  # even if TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is set
    # The project writes to every new tensor before it reads the tensor, so filling new tensors would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_flush_denormal(True)  # arithmetic on subnormal numbers is a hundred times slower on a CPU
    return torch.device(chosen() if name == "auto" else name)


@cache
def chosen() -> str:
    """Return the device for "auto": a usable NVIDIA or Apple GPU, else the CPU.

    If torch cannot use the GPU of this machine, the first call prints a warning to standard error.
    """
    for name in ("cuda", "mps"):
        why = unusable(name)
        if not why:
            return name
        if why != NONE:
            print(f"{why}: using the CPU instead", file=sys.stderr, flush=True)
    return "cpu"


def unusable(name: str) -> str:
    """Return the reason why the device `name` cannot be used; an empty string for a usable device.

    A device cannot be used if the machine lacks it, or if this version of torch has no kernels for it.
    """
    if name == "cpu":
        return ""
    if not {"cuda": torch.cuda, "mps": torch.backends.mps}[name].is_available():
        return NONE
    if name == "mps" or torch.version.hip:
        return ""
    major, minor = torch.cuda.get_device_capability()
    built = sorted(torch.cuda.get_arch_list())
    # A kernel "sm_75" runs on GPUs with compute capability 7.5 to 7.9. The driver can compile a kernel "compute_75" for
    # GPUs with any compute capability from 7.5.
    for kind, generation, version in re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(built)):
        same = int(generation) == major and int(version) <= minor
        if same or (kind == "compute" and (int(generation), int(version)) <= (major, minor)):
            return ""
    return (
        f"the GPU {torch.cuda.get_device_name()} has compute capability {major}.{minor}, and this torch has kernels "
        f"only for {', '.join(built)}"
    )


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next training step. To return memory to the kernel would cost time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, 2**30)
        mallopt(MMAP_THRESHOLD, 2**25)


def fast_at_bfloat16(name: str) -> bool:
    """Whether the device `name` has instructions for bfloat16. Else, bfloat16 is hundreds of times slower."""
    name = chosen() if name == "auto" else name
    if name == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "mps":
        return True
    has = torch.cpu.get_capabilities()
    return any(has.get(key) for key in ("avx512_bf16", "amx_bf16", "bf16"))  # the last one on ARM


def describe(device: torch.device) -> str:
    """Name of the hardware of `device`. A CPU's name includes the number of threads, as in "AMD EPYC, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"{_processor()}, GPU"
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def forget_peak_memory(device: torch.device) -> None:
    """Reset the peak that `peak_memory` returns. Only the peak of an NVIDIA GPU can be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process in MiB: GPU memory if `device` is an NVIDIA GPU, else RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if platform.system() == "Darwin" else 2**10  # macOS counts bytes, other systems count KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def room(device: torch.device) -> int:
    """Maximum bytes of images that this process may keep in the memory of `device`.

    The environment variable `AELAB_MEMORY` sets the limit in MiB. Without the variable, the limit is a quarter of the
    memory that `share` returns.
    """
    if limit := whole_number(MEMORY):
        return limit * 2**20
    return share(device) // 4


def share(device: torch.device) -> int:
    """Bytes of GPU memory (NVIDIA) or RAM that this process may use. Other trainings may run at the same time.

    If several trainings share a GPU, each gets at most an equal part of the whole memory. The free memory alone would
    be too high a limit, because trainings that start at the same time all see the same free memory.
    """
    if device.type == "cuda":
        free, all_of_it = torch.cuda.mem_get_info(device)
        return min(free, all_of_it // (whole_number(SHARED) or 1))
    return (whole_number(FREE) or free_memory()) // (whole_number(PROCESSES) or 1)


def free_memory() -> int:
    """Bytes of RAM that this process can still use: free on the machine, and within the limit of a container."""
    limit, free = containers.free_memory(), psutil.virtual_memory().available
    return free if limit is None else min(limit, free)


def default_generator(device: torch.device) -> torch.Generator:
    """Return torch's own random generator for `device`. Layers such as `nn.Dropout` draw from this generator."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()  # noqa: SLF001 - torch has no public name for it
    return torch.default_generator


class Pace:
    """Lets this process run at most `AHEAD` training steps ahead of its GPU.

    The process sleeps until the GPU has finished the step that is `AHEAD` steps back. Without this limit, the process
    would fill the queue of kernel launches, and then wait at full CPU load. A request to stop the training would
    have no effect until the GPU has emptied the queue.
    """

    def __init__(self, device: torch.device) -> None:
        self.gpu = device.type == "cuda"
        self.steps: deque[torch.cuda.Event] = deque()

    def __call__(self) -> None:
        """Wait if this process is `AHEAD` steps ahead of the GPU. Call the object after each training step."""
        if not self.gpu:
            return
        event = self.steps.popleft() if len(self.steps) == AHEAD else torch.cuda.Event(blocking=True)
        event.synchronize()  # returns at once for a new event
        event.record()
        self.steps.append(event)


class Stopwatch:
    """Measures the time that a device spends on the work in `with` blocks. The blocks do not wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self.gpu = device.type == "cuda"
        self.laps: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self.laps.append((self._now(), None))

    def __exit__(self, *_: object) -> None:
        self.laps[-1] = self.laps[-1][0], self._now()

    def seconds(self) -> float:
        """Total time of all blocks in seconds. The call waits until the device has finished its work."""
        if self.gpu:
            torch.cuda.synchronize()
            return sum(began.elapsed_time(ended) for began, ended in self.laps) / 1000
        return sum(ended - began for began, ended in self.laps)

    def _now(self) -> Any:
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a file of the kernel
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
