from pathlib import Path

import psutil
import pytest

from aelab.core import containers, devices
from pipeline.common import resources

GIB = 2**30
CASES: dict[str, tuple[str, dict[str, str], float | None, int | None]] = {  # group, files, CPUs, bytes of memory left
    "no limit": ("0::/", {"cpu.max": "max 100000", "memory.max": "max", "memory.current": "1"}, None, None),
    "a container": (
        "0::/",
        {"cpu.max": "150000 100000", "memory.max": f"{4 * GIB}", "memory.current": f"{3 * GIB}",
         "memory.stat": f"anon 5\ninactive_file {GIB // 2}\nactive_file {GIB // 2}\n"},
        1.5, 2 * GIB,
    ),
    "a batch job, limited further out": (
        "0::/job/step",
        {"job/cpu.max": "100000 100000", "job/step/cpu.max": "max 100000", "job/memory.max": f"{2 * GIB}",
         "job/memory.current": f"{GIB}", "job/memory.stat": "anon 5\n"},
        1.0, GIB,
    ),
    "version 1": (
        "3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n",
        {"cpu/docker/x/cpu.cfs_quota_us": "50000", "cpu/docker/x/cpu.cfs_period_us": "100000",
         "memory/docker/x/memory.limit_in_bytes": f"{GIB}", "memory/docker/x/memory.usage_in_bytes": f"{GIB // 2}",
         "memory/docker/x/memory.stat": "total_inactive_file 0\n"},
        0.5, GIB // 2,
    ),
    "version 1, whose groups have other names inside": (
        "3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n",
        {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"},
        2.0, None,
    ),
    "version 1 without a limit": (
        "3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None,
    ),
    "more used than allowed": (
        "0::/", {"memory.max": "5", "memory.current": "9", "memory.stat": "anon 5\n"}, None, 0,
    ),
    "nothing": ("", {}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_limits_of_a_container_are_seen(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, files, cpus, memory = CASES[case]
    (tmp_path / "own").write_text(group)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    monkeypatch.setattr(containers, "OWN", tmp_path / "own")
    monkeypatch.setattr(containers, "GROUPS", tmp_path / "groups")
    assert containers.cpu_limit() == cpus
    assert containers.free_memory() == memory
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert resources.all_cpus() == (4 if cpus is None else max(1, int(cpus)))
    free = devices.free_memory()
    assert free == memory if memory is not None else free > 2**20


def test_without_linux_there_are_no_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "OWN", tmp_path / "none")
    assert containers.cpu_limit() is None
    assert containers.free_memory() is None
    assert 0 < devices.free_memory() <= psutil.virtual_memory().total
