"""(p) Simulated duration of a cold run (a run without earlier results), for several numbers of cores.

The simulation plans the stages and divides the CPUs as `make repro` does. The last run recorded the durations of its
stages in `provenance/`. The simulation is most accurate if the last run had one CPU (`AELAB_CPUS=1 make repro`) and no
other process used the machine.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import Table, Value
from pipeline.common import params, paths
from pipeline.runner.dvc_stages import DvcStages
from pipeline.runner.local import CpuShares
from pipeline.runner.plan import Plan, estimate_work

CORES = (1, 2, 4, 8, 1000)  # the table calls the last number "no limit"


@dataclass
class Work:
    """Work of a stage in seconds: first the work on one thread, then the work of each seed."""

    alone: float  # seconds on one thread, before the seeds
    seeds: list[float] = field(default_factory=list)  # seconds of each seed
    behind: bool = False  # whether the seeds also use idle cores beyond the cores assigned to the stage

    def begin(self, share: int, cores: int) -> None:
        """Start the stage with `share` of all `cores`. `left` lists the remaining work as [threads, seconds]."""
        workers = max(1, min(len(self.seeds), cores + (cores > 1) if self.behind else share))
        rounds = math.ceil(len(self.seeds) / workers)
        self.left = [[1.0, self.alone], [float(workers), rounds * max(self.seeds, default=0.0)]]
        self._skip()

    def advance(self, seconds: float) -> None:
        """Reduce the remaining work by `seconds`."""
        self.left[0][1] -= seconds
        self._skip()

    def _skip(self) -> None:
        while self.left and self.left[0][1] <= 1e-9:  # noqa: PLR2004 - rounding
            del self.left[0]


def run() -> list[Table]:
    """Return two tables: the duration for each number of cores, and the stages of the critical path."""
    checked, dvc = params.load(variants=False), DvcStages()
    works = {name: noted(name) for name in dvc.stages}
    times: list[list[Value]] = []
    for cores in CORES:
        plan = Plan.of(dvc.upstream, lambda _: True, lambda name: estimate_work(name, checked))
        ended = simulate(plan, works, cores, checked.training.threads, len(checked.seeds))
        busy = sum(work.alone + sum(work.seeds) for work in works.values()) / cores / max(ended.values())
        times.append(["no limit" if cores == CORES[-1] else f"{cores}", max(ended.values()), 100 * busy])
    path = critical_path(dvc.upstream, ended)
    rows: list[list[Value]] = [[name, ended[name] - max((ended[on] for on in dvc.upstream[name]), default=0.0)]
                               for name in path]  # fmt: skip
    note = (
        "Seconds of a cold run, computed from the seconds that each stage recorded. The stages `sources` and `report`, "
        "and the time between two stages, are not recorded and therefore left out. Busy: average percentage of the "
        "cores in use."
    )
    return [
        Table("(p) A cold run on more cores, simulated", note, {"cores": 0, "seconds": 0, "busy, %": 0}, times),
        Table(
            "(p) The critical path",
            "Seconds of the stages that decide the duration with unlimited cores.",
            {"": 0, "seconds": 1},
            rows,
        ),
    ]


def noted(name: str) -> Work:
    """Return the work that a stage recorded in `provenance/`, or no work if the stage recorded nothing."""
    kind, _, entry = name.partition("@")
    file = paths.training(entry) if kind == "train" else paths.PROVENANCE / f"{name.replace('@', '/')}.json"
    if not file.exists():
        return Work(0.0)
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    imports, seconds = content["import_seconds"], content["seconds"]
    if kind == "train":
        return Work(imports, [sum(seed["seconds"].values()) for seed in content["seeds"].values()])
    if kind == "evaluate":
        count = len(json.loads((paths.EVALUATION / entry / "metrics.json").read_text(encoding="utf-8")))
        return Work(imports, [seconds / count] * count, behind=True)
    return Work(imports + seconds)


def simulate(plan: Plan, works: dict[str, Work], cores: int, threads: int, seeds: int) -> dict[str, float]:
    """Simulate a run; return the seconds from its start to the end of each stage."""
    shares, now = CpuShares(cores, threads, max(1, cores // threads), seeds), 0.0
    ended: dict[str, float] = {}
    running: dict[str, Work] = {}
    while plan.unfinished:
        for name, share in shares.take(plan.ready()).items():
            plan.waiting.discard(name)
            running[name] = works[name]
            running[name].begin(share, cores)
        speeds = _speeds(running, cores)
        step = min(
            (work.left[0][1] / speeds[name] if work.left else 0.0 for name, work in running.items()), default=0.0
        )
        now += step
        for name, work in list(running.items()):
            if work.left:
                work.advance(step * speeds[name])
            if not work.left:
                del running[name]
                shares.give_back(name)
                plan.unfinished.discard(name)
                ended[name] = now
    return ended


def _speeds(running: dict[str, Work], cores: int) -> dict[str, float]:
    """Return the speed of each stage, 1 at most. Stages with `behind` share the cores that other stages leave idle."""
    speeds, free = dict[str, float](), float(cores)
    for behind in (False, True):
        wanted = {name: work.left[0][0] for name, work in running.items() if work.left and work.behind is behind}
        speed = min(1.0, free / sum(wanted.values())) if wanted else 1.0
        speeds |= dict.fromkeys(wanted, max(speed, 1e-6))
        free -= speed * sum(wanted.values())
    return speeds


def critical_path(upstream: Any, ended: dict[str, float]) -> list[str]:
    """Return the critical path: the stages, in order, that determined the end of the run."""
    path = [max(ended, key=lambda name: ended[name])]
    while upstream[path[0]]:
        path.insert(0, max(upstream[path[0]], key=lambda name: ended[name]))
    return path
