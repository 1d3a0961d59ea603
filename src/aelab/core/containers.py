"""CPU and memory limits of a container or a batch job, from Linux's control groups (versions 1 and 2)."""

from collections.abc import Iterator
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cpu_limit() -> float | None:
    """Return the number of CPUs that this process may keep busy, possibly a fraction; None without a limit."""
    limits = [
        *(_share(*words) for words in _read("", "cpu.max")),
        *(_share(*quota, *period) for quota, period in zip(
            _read("cpu", "cpu.cfs_quota_us"), _read("cpu", "cpu.cfs_period_us"), strict=False)),
    ]  # fmt: skip
    return min((each for each in limits if each is not None), default=None)


def free_memory() -> int | None:
    """Return the bytes of memory left below the limit, including cached files; None without a limit.

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
                mapped = (f"{prefix}inactive_file", f"{prefix}active_file")  # cached files, such as mapped images
                files = sum(int(stat[stat.index(each) + 1]) for each in mapped if each in stat)
                left.append(max(0, int(most) - int(now) + files))
    return min(left, default=None)


def _share(quota: str, period: str) -> float | None:
    """Number of CPUs that `quota` µs of CPU time per `period` µs allow; None without a limit."""
    return int(quota) / int(period) if quota.isdigit() else None  # "max" or -1: no limit


def _read(controller: str, file: str) -> Iterator[list[str]]:
    """Yield the words of `file` from this process's control group, then from the parent groups that are visible."""
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
