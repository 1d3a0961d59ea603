"""The device that models run on, set up so that the same run gives the same bits."""

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

MEMORY = "AELAB_MEMORY"
SHARED = "AELAB_SHARED"  # how many trainings share a GPU: whoever starts them sets this
FREE = "AELAB_FREE"  # the bytes of RAM that there were for each training before the first began: likewise
NONE = "this machine has no usable GPU of that kind"
KINDS = ("auto", "cpu", "cuda", "mps")
AHEAD = 32  # steps
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # what glibc's malloc.h calls them


def prepare(name: str, threads: int) -> torch.device:
    """The device `name` ("auto": as `chosen`), with deterministic arithmetic for this process.

    Sums depend in their last bits on how many threads share them: `threads` is the number on a CPU, however many
    cores there are.

    Raises:
        UserError: there is no such device.
    """
    if name not in KINDS:
        msg = f"there is no device {name!r}; there are {', '.join(KINDS)}"
        raise UserError(msg)
    torch.set_num_threads(threads)
    _keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by CUDA when it starts
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms() is the same, but imports a compiler
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    torch.backends.cuda.matmul.allow_tf32 = False  # whatever TORCH_ALLOW_TF32_CUBLAS_OVERRIDE says
    # Nothing here reads memory before it writes it, so there is no need to fill it first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_flush_denormal(True)  # subnormal numbers are two orders slower on a CPU
    return torch.device(chosen() if name == "auto" else name)


@cache
def chosen() -> str:
    """The device that "auto" takes: a GPU, NVIDIA's or Apple's, where there is one that can be used; else the CPU."""
    for name in ("cuda", "mps"):
        why = unusable(name)
        if not why:
            return name
        if why != NONE:
            print(f"{why}: the CPU is used", file=sys.stderr, flush=True)
    return "cpu"


def unusable(name: str) -> str:
    """Why the device `name` cannot be used: it is not there, or this torch has no kernels for it. Empty if it can."""
    if name == "cpu":
        return ""
    if not {"cuda": torch.cuda, "mps": torch.backends.mps}[name].is_available():
        return NONE
    if name == "mps" or torch.version.hip:
        return ""
    major, minor = torch.cuda.get_device_capability()
    built = sorted(torch.cuda.get_arch_list())
    # A kernel runs on the later GPUs of its generation ("sm_75"), one that the driver compiles on all later ones.
    for kind, generation, version in re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(built)):
        same = int(generation) == major and int(version) <= minor
        if same or (kind == "compute" and (int(generation), int(version)) <= (major, minor)):
            return ""
    return (
        f"the GPU {torch.cuda.get_device_name()} has compute capability {major}.{minor}, and this torch has kernels "
        f"for {', '.join(built)} alone"
    )


def _keep_freed_memory() -> None:
    """Let glibc keep what one training step frees for the next one, instead of handing it to the kernel and asking for
    it again, page by page.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, 2**30)
        mallopt(MMAP_THRESHOLD, 2**25)


def fast_at_bfloat16(name: str) -> bool:
    """Whether the device `name` has instructions for bfloat16; without them it is hundreds of times slower."""
    name = chosen() if name == "auto" else name
    if name == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "mps":
        return True
    has = torch.cpu.get_capabilities()
    return has["architecture"] != "x86_64" or has["amx_bf16"] or has["avx512_bf16"]


def describe(device: torch.device) -> str:
    """The hardware behind `device`, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"{_processor()}, GPU"
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` begin anew, as far as the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has held so far, in MiB: on the GPU where it works there, else in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if platform.system() == "Darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def room(device: torch.device) -> int:
    """Bytes of images that a training may keep on `device`: what MEMORY says, in MiB, else a quarter of its share.

    SHARED trainings share a GPU and begin at once, so that none can go by what is free alone.
    """
    if limit := whole_number(MEMORY):
        return limit * 2**20
    return share(device) // 4


def share(device: torch.device) -> int:
    """Bytes of `device`, or of RAM, that this training may take where others run beside it."""
    if device.type == "cuda":
        free, all_of_it = torch.cuda.mem_get_info(device)
        return min(free, all_of_it // (whole_number(SHARED) or 1))
    return (whole_number(FREE) or free_memory()) // processes_here()


def processes_here() -> int:
    """How many of the processes that share this one's training are on this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def free_memory() -> int:
    """Bytes of RAM that this machine, or the container around this process, has free."""
    limit, free = containers.free_memory(), psutil.virtual_memory().available
    return free if limit is None else min(limit, free)


def default_generator(device: torch.device) -> torch.Generator:
    """What draws on `device` where nobody names a generator, as `nn.Dropout` does."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()  # noqa: SLF001 - torch.mps.get_rng_state asks there, too
    return torch.default_generator


class Pace:
    """Keeps the host at most AHEAD steps ahead of a GPU, asleep until the one so long ago is done. Without it the host
    runs on until the queue of launches is full, and then spins; whoever asks it to stop waits for all that is queued.
    """

    def __init__(self, device: torch.device) -> None:
        self.gpu = device.type == "cuda"
        self.steps: deque[torch.cuda.Event] = deque()

    def __call__(self) -> None:
        """After each step."""
        if not self.gpu:
            return
        event = self.steps.popleft() if len(self.steps) == AHEAD else torch.cuda.Event(blocking=True)
        event.synchronize()  # a new one is done
        event.record()
        self.steps.append(event)


class Stopwatch:
    """The time that a device spends on what is done inside of `with` blocks; only reading it waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.gpu = device.type == "cuda"
        self.laps: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self.laps.append((self._now(), None))

    def __exit__(self, *_: object) -> None:
        self.laps[-1] = self.laps[-1][0], self._now()

    def seconds(self) -> float:
        """Of all blocks together."""
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
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - not a file of ours
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
