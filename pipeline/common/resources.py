"""What this machine has to offer, without importing torch."""

import ctypes
import os
import sys

from aelab.core import containers
from aelab.core.environment import whole_number

CPUS = "AELAB_CPUS"
PER_GPU = "AELAB_PER_GPU"
BEHIND = 10  # how much nicer to others a process is that nobody times


def cpus() -> int:
    """How many CPUs this process may keep busy: its share where stages run side by side, else all."""
    return whole_number(CPUS) or all_cpus()


def all_cpus() -> int:
    """How many CPUs there are for this process and what runs beside it; a container may limit them."""
    here = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(here, int(containers.cpu_limit() or here)))


def per_gpu() -> int | None:
    """How many trainings may share a GPU at once; None: the seeds of one entry, as many as there are CPUs for."""
    return whole_number(PER_GPU)


def gpus() -> list[str]:
    """NVIDIA's GPUs that CUDA's driver finds here, as CUDA_VISIBLE_DEVICES names them."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = _cuda_devices()
    return names[:count] if names else [str(number) for number in range(count)]


def _cuda_devices() -> int:
    """How many there are; the driver reads CUDA_VISIBLE_DEVICES, and stops at the first name that is no device."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        well = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if well else 0
