"""CPU and memory limits of a container or a batch job, from Linux's control groups (versions 1 and 2)."""

from collections.abc import Iterator
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cpu_limit() -> float | None:
    """Return how many CPUs this process may use, possibly a fraction such as 1.5; None without a limit."""
    limits = [
        *(_share(*words) for words in _read("", "cpu.max")),
        *(_share(*quota, *period) for quota, period in zip(
            _read("cpu", "cpu.cfs_quota_us"), _read("cpu", "cpu.cfs_period_us"), strict=False)),
    ]  # fmt: skip
    return min((each for each in limits if each is not None), default=None)


def free_memory() -> int | None:
    """Return how many more bytes of memory this process may use; None without a limit.

    Cached files count as free memory, because the kernel drops them when it needs the space.
    """
    left = list[int]()
    for version, limit, used, prefix in (
        ("", "memory.max", "memory.current", ""),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        for (most,), (now, *_), stat in zip(
            _read(version, limit), _read(version, used), _read(version, "memory.stat"), strict=False
        ):
            if most.isdigit():
                mapped = (f"{prefix}inactive_file", f"{prefix}active_file")  # cached files, such as mapped arrays
                files = sum(int(stat[stat.index(each) + 1]) for each in mapped if each in stat)
                left.append(max(0, int(most) - int(now) + files))
    return min(left, default=None)


def _share(quota: str, period: str) -> float | None:
    """Number of CPUs if a process may use `quota` µs of CPU time in each `period` µs; None without a limit."""
    return int(quota) / int(period) if quota.isdigit() else None  # "max" or -1: no limit


def _read(controller: str, file: str) -> Iterator[list[str]]:
    """Yield the words of `file` for this process's control group, then for each parent group that has the file.

    Version 1 has a folder for each `controller`, such as "memory". For version 2, `controller` is empty.
    """
    try:
        lines = [line.split(":", 2) for line in OWN.read_text(encoding="utf-8").splitlines()]
    except OSError:  # not on Linux
        return
    own = next((path for _, controllers, path in lines if controller in controllers.split(",")), "/")
    groups = Path(own.lstrip("/"))
    for group in dict.fromkeys([groups, *groups.parents]):
        path = GROUPS / controller / group / file
        if path.is_file():
            yield path.read_text(encoding="utf-8").split()
