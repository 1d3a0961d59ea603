"""What this machine has to offer, without importing torch."""

import itertools
import os
import subprocess
import sys

from aelab.core.environment import whole_number

CPUS = "AELAB_CPUS"
PER_GPU = "AELAB_PER_GPU"
BEHIND = 10  # how much nicer to others a process is that nobody times


def cpus() -> int:
    """How many CPUs this process may keep busy: its share where stages run side by side, else all."""
    return whole_number(CPUS) or all_cpus()


def all_cpus() -> int:
    """How many CPUs there are for this process and what runs beside it."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def per_gpu() -> int | None:
    """How many trainings may share a GPU at once; None: the seeds of one entry, as many as there are CPUs for."""
    return whole_number(PER_GPU)


def gpus() -> list[str]:
    """The GPUs, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA reads the list up to the first name that is no device.
        return list(itertools.takewhile(lambda name: name and not name.startswith("-"), visible.split(",")))
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],  # noqa: S607
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()
