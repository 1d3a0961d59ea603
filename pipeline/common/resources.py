"""CPUs and GPUs of this machine, counted without importing torch."""

import ctypes
import os
import sys

from aelab.core import containers
from aelab.core.environment import whole_number

CPUS = "AELAB_CPUS"  # environment variable: number of CPUs that a process may use
PER_GPU = "AELAB_PER_GPU"  # environment variable: number of trainings that may share a GPU
BEHIND = 10  # niceness of processes whose run time is not measured; a high niceness is a low priority


def cpus() -> int:
    """Number of CPUs that this process may use: $AELAB_CPUS, or all CPUs if the variable is unset.

    A command that runs several stages at once sets $AELAB_CPUS for each stage.
    """
    return whole_number(CPUS) or all_cpus()


def all_cpus() -> int:
    """Number of CPUs that all stages together may use. In a container, the container's limit applies."""
    here = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(here, int(containers.cpu_limit() or here)))


def per_gpu() -> int | None:
    """Number of trainings that may share a GPU: $AELAB_PER_GPU, or None if the variable is unset.

    With None, only seeds of the same model configuration share a GPU. The number of CPUs then limits how many seeds run
    at once.
    """
    return whole_number(PER_GPU)


def gpus() -> list[str]:
    """Names of the GPUs that NVIDIA's driver finds, in the form that CUDA_VISIBLE_DEVICES accepts."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = _cuda_devices()
    return names[:count] if names else [str(number) for number in range(count)]


def _cuda_devices() -> int:
    """Count the GPUs. The driver reads CUDA_VISIBLE_DEVICES, and ignores all names from the first unknown name on."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        well = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if well else 0
