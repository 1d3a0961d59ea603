import os
import shutil
import subprocess
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from unittest.mock import MagicMock

import psutil
import pytest
import torch
from dvc.repo import Repo

from aelab.core import devices
from aelab.core.errors import UserError
from pipeline.common import params, resources, seeds, stage
from pipeline.common.params import Params
from pipeline.runner import local, repro
from pipeline.runner.console import ConsoleLog
from pipeline.runner.dvc_stages import DvcStages
from pipeline.runner.local import CpuShares, LocalExecutor
from pipeline.runner.plan import PRIOR, Plan, estimate_work, plan_run
from tests.support.parameters import DEFAULT, with_value
from tests.support.processes import PATIENCE, gone, started, wait_for, working_in
from tests.support.project import REPOSITORY

UPSTREAM = {
    "download": set[str](),
    "classify": {"download"},
    "train@ae": {"download"},
    "train@vqvae": {"download"},
    "evaluate@ae": {"train@ae", "classify"},
    "evaluate@vqvae": {"train@vqvae", "classify"},
    "report": {"evaluate@ae", "evaluate@vqvae"},
}


def plan(*changed: str) -> Plan:
    checked = params.check(DEFAULT, variants=False)
    return Plan.of(UPSTREAM, set(changed).__contains__, lambda name: estimate_work(name, checked))


def run(plan: Plan) -> list[str]:
    """Return the order in which a plan runs, one stage at a time."""
    order = []
    while ready := plan.ready():
        plan.waiting.discard(ready[0])
        plan.unfinished.discard(ready[0])
        order.append(ready[0])
    return order


def test_the_longest_way_to_the_end_goes_first() -> None:
    order = ["download", "train@vqvae", "train@ae", "classify", "evaluate@vqvae", "evaluate@ae", "report"]
    assert run(plan("download")) == order


def test_only_what_depends_on_a_change_runs() -> None:
    assert run(plan("train@ae")) == ["train@ae", "evaluate@ae", "report"]
    assert run(plan()) == []


def test_nothing_begins_before_what_it_depends_on() -> None:
    begun = plan("download")
    assert begun.ready() == ["download"]
    begun.waiting.discard("download")
    assert begun.ready() == []  # it is running
    begun.unfinished.discard("download")
    assert begun.ready() == ["train@vqvae", "train@ae", "classify"]  # side by side


@pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # from a package that DVC uses
def test_what_is_missing_here_is_no_change_where_stages_run_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    checked = params.check(DEFAULT, variants=False)
    stages = "stages:\n  a: {cmd: cp in a, deps: [in], outs: [a]}\n  b: {cmd: cp a b, deps: [a], outs: [b]}\n"
    Path("dvc.yaml").write_text(stages)
    Path("in").write_text("data")
    with Repo.init() as repo:
        repo.reproduce()

    def waiting(*, elsewhere: bool) -> set[str]:
        return plan_run(DvcStages(), checked, elsewhere=elsewhere).waiting

    assert waiting(elsewhere=False) == set()
    shutil.rmtree(".dvc/cache")
    Path("a").unlink()
    Path("b").unlink()
    assert waiting(elsewhere=False) == {"a", "b"}
    assert waiting(elsewhere=True) == set()
    Path("dvc.yaml").write_text(stages + "  new: {cmd: cp in c, deps: [in], outs: [c]}\n")
    assert waiting(elsewhere=True) == {"new"}
    Path("in").write_text("other")
    assert waiting(elsewhere=True) == {"a", "b", "new"}


@pytest.mark.parametrize("broken", [None, 3, {}, {"training": 3}, {"training": {"steps": "many"}}])
def test_broken_entries_do_not_break_the_plan(broken: object) -> None:
    checked = params.check(with_value("variants.ae", broken), variants=False)
    assert estimate_work("train@ae", checked) == checked.training.steps


def test_the_work_of_an_entry_includes_its_parts() -> None:
    checked = params.check(DEFAULT, variants=False)
    section = DEFAULT["variants"]["vqvae"]
    steps = section["training"]["steps"] + PRIOR * section["prior"]["training"]["steps"]
    assert estimate_work("train@vqvae", checked) == steps
    assert estimate_work("evaluate@vqvae", checked) == steps / 8


@pytest.mark.parametrize(("cpus", "threads", "names", "begun"), [
    (2, 1, ["train@a", "train@b", "c"], {"train@a": 1, "train@b": 1}),
    (3, 1, ["train@a", "train@b", "c"], {"train@a": 1, "train@b": 1, "c": 1}),  # the three seeds use all CPUs
    (4, 1, ["train@a", "train@b", "c"], {"train@a": 3, "train@b": 1}),
    (8, 1, ["train@a", "train@b", "c", "d", "e"], {"train@a": 3, "train@b": 3, "c": 1, "d": 1}),
    (8, 2, ["train@a", "train@b", "c"], {"train@a": 6, "train@b": 2}),
    (8, 1, ["c"], {"c": 8}),
    (1, 2, ["train@a"], {"train@a": 2}),  # more threads than CPUs
])  # fmt: skip
def test_stages_share_the_cpus(cpus: int, threads: int, names: list[str], begun: dict[str, int]) -> None:
    shares = CpuShares(cpus, threads, max(1, cpus // threads), seeds=3)
    assert shares.take(names) == begun
    assert shares.take(["late"]) == {}
    for name in begun:
        shares.give_back(name)
    assert shares.free == max(cpus, threads)


def test_as_many_stages_run_as_were_asked_for_on_however_few_cpus() -> None:
    assert CpuShares(1, 1, 3, seeds=2).take(["train@a", "train@b", "c", "d"]) == {"train@a": 1, "train@b": 1, "c": 1}


def test_cpus_are_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(resources.CPUS, "3")
    assert resources.cpus() == 3
    monkeypatch.delenv(resources.CPUS)
    assert resources.cpus() >= 1


@pytest.mark.parametrize("wrong", ["0", "-1", "2.5", "two", "nan"])
def test_a_wrong_number_in_the_environment_is_one_sentence(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, read in {resources.CPUS: resources.cpus, resources.PER_GPU: resources.per_gpu}.items():
        monkeypatch.setenv(name, wrong)
        with pytest.raises(UserError, match=f"{name} is '{wrong}': it must be a whole number of at least 1"):
            read()


@pytest.mark.parametrize(
    ("per_gpu", "entries"), [("", 1), ("1", 1), ("3", 1), ("5", 1), ("6", 2), ("12", 4)]
)  # three seeds each
def test_entries_share_a_gpu_as_the_environment_says(
    per_gpu: str, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_cuda_devices", lambda: 2)
    monkeypatch.setenv(resources.PER_GPU, per_gpu)
    local = LocalExecutor(params.check(DEFAULT, variants=False), None, ConsoleLog(), dvc=None)  # type: ignore[arg-type]
    assert local.jobs == 2 * entries
    assert sorted(str(local.slots.get()) for _ in range(local.jobs)) == sorted(["0", "1"] * entries)


@pytest.mark.parametrize(
    ("visible", "there", "found"),
    [
        (None, 2, ["0", "1"]),
        ("1, GPU-a", 2, ["1", "GPU-a"]),
        ("0,-1,1", 1, ["0"]),  # CUDA stops at the first name that is no device
        ("0", 0, []),  # a container may set it on a machine without a GPU
        ("", 0, []),
        (None, 0, []),
    ],
)
def test_gpus_are_those_that_cuda_finds(
    visible: str | None, there: int, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_cuda_devices", lambda: there)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resources.gpus() == found


def test_gpus_are_counted_as_torch_counts_them() -> None:
    """The count must agree on machines without a GPU, with a GPU, and with a driver that computes nothing."""
    assert len(resources.gpus()) == torch.cuda.device_count()


@pytest.mark.parametrize(("cpus", "per_gpu", "shared"), [("2", "", "2"), ("1", "", "1"), ("1", "12", "12")])
def test_trainings_know_how_many_share_their_gpu(
    cpus: str, per_gpu: str, shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "chosen", lambda: "cuda")
    monkeypatch.setenv(devices.SHARED, "")
    monkeypatch.setenv(devices.FREE, "")
    monkeypatch.setenv(resources.CPUS, cpus)
    monkeypatch.setenv(resources.PER_GPU, per_gpu)
    monkeypatch.setattr("pipeline.common.seeds.ProcessPoolExecutor", lambda workers, *_: ThreadPoolExecutor(workers))
    checked = params.check(with_value("training.threads", 1) | {"seeds": [0, 1]})
    seeds.for_each_seed(_where, checked, "ae", timed=True)
    assert os.environ[devices.SHARED] == shared


def test_a_training_that_takes_all_gpus_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_cuda_devices", lambda: 8)
    monkeypatch.setenv(resources.CPUS, "96")
    content = with_value("training.processes", 8)
    shared = params.check(content, variants=False)
    local = LocalExecutor(shared, None, ConsoleLog(), dvc=None)  # type: ignore[arg-type]
    assert (local.jobs, local.slots.get()) == (1, None)
    content["training"]["device"] = "cpu"
    on_cpus = params.check(content, variants=False)
    assert LocalExecutor(on_cpus, None, ConsoleLog(), dvc=None).jobs == 12  # type: ignore[arg-type]


def _where(checked: Params, entry: str, seed: int) -> tuple[int, str, int, int]:
    return os.getpid(), entry, seed, checked.training.steps


@pytest.mark.parametrize(("cpus", "others"), [("1", 0), ("2", 2)])
def test_seeds_share_the_cpus(cpus: str, others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(resources.CPUS, cpus)
    monkeypatch.setattr(devices, "chosen", lambda: "cpu")
    checked = params.check(DEFAULT)
    done = seeds.for_each_seed(_where, checked, "ae", timed=True)
    assert list(done) == checked.seeds
    steps = DEFAULT["training"]["steps"]
    assert [(each[1], each[2], each[3]) for each in done.values()] == [("ae", seed, steps) for seed in checked.seeds]
    elsewhere = {each[0] for each in done.values()} - {os.getpid()}
    assert len(elsewhere) <= others
    assert bool(elsewhere) == bool(others)


def test_seeds_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(resources.CPUS, "2")
    monkeypatch.setattr(devices, "chosen", lambda: "cuda")
    done = seeds.for_each_seed(_where, params.check(DEFAULT), "ae", timed=True)
    assert os.getpid() not in {each[0] for each in done.values()}
    monkeypatch.setenv(resources.PER_GPU, "1")
    done = seeds.for_each_seed(_where, params.check(DEFAULT), "ae", timed=True)
    assert {each[0] for each in done.values()} == {os.getpid()}


def _how_nice(_: Params, __: str, ___: int) -> tuple[int, int]:
    return os.getpid(), os.nice(0)


def test_what_nobody_times_runs_on_all_cores_behind_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(resources.CPUS, "1")
    monkeypatch.setattr(devices, "chosen", lambda: "cpu")
    monkeypatch.setattr(resources, "all_cpus", lambda: 2)
    monkeypatch.setattr(os, "nice", lambda more, _nice=os.nice: _nice(more) if more == 0 else asked.append(more))
    asked: list[int] = []
    pools = MagicMock(side_effect=ProcessPoolExecutor)
    monkeypatch.setattr("pipeline.common.seeds.ProcessPoolExecutor", pools)
    done = seeds.for_each_seed(_how_nice, params.check(DEFAULT), "ae", timed=False)
    assert asked == [resources.BEHIND]
    assert pools.call_args.args[0] == 3  # one process more than there are cores
    assert os.getpid() not in {pid for pid, _ in done.values()}


def _die(_: Params, __: str, ___: int) -> None:
    os.kill(os.getpid(), 9)


def test_a_killed_process_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(resources.CPUS, "2")
    monkeypatch.setattr(devices, "chosen", lambda: "cpu")

    def work(checked: Params, _: stage.Provenance) -> None:
        seeds.for_each_seed(_die, checked, "ae", timed=True)

    with pytest.raises(SystemExit):
        stage.run(work, None)
    assert "a process was killed, probably because memory ran out" in capsys.readouterr().err


LOOKS = 50


@pytest.mark.parametrize(("names", "soon", "shown"), [
    (["train@ae"], 0.0, True),
    (["train@ae"], PATIENCE, False),  # the run ends before
    (["evaluate@ae"], 0.0, False),
])  # fmt: skip
def test_trainings_are_followed_once_there_is_something_to_see(
    names: list[str],
    soon: float,
    shown: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = tmp_path / "begun"
    own = "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_DFL)"  # a test may ignore it
    script = f"{own}; pathlib.Path({str(begun)!r}).touch(); time.sleep({PATIENCE})"
    monkeypatch.setattr(local, "FOLLOWER", (sys.executable, "-c", script))
    monkeypatch.setattr(local, "SOON", soon)
    with local.following(names):
        if shown:
            wait_for(begun.exists)
        running = working_in(tmp_path)
    assert begun.exists() is bool(running) is shown
    assert gone(running)


SCRIPT = """
import os, sys, torch
from pipeline.common import params, seeds
from tests.support.parameters import with_value

def multiply(*_):
    os.write(2, f"{os.getpid()}\\n".encode())  # in one piece, beside another seed
    return (torch.ones(512, 512) @ torch.ones(512, 512)).sum().item()

content = with_value("training.threads", 2) | {"seeds": [0, 1]}
content["variants"]["ae"]["code"] = 2000
content["training"]["device"] = "cpu"  # processes that share a GPU are spawned
os.environ["AELAB_CPUS"] = "4"
torch.set_num_threads(2)
checked = params.check(content)
if sys.argv[1] == "real":
    multiply()  # as a check that built models with weights would start threads
print(seeds.for_each_seed(multiply, checked, "ae", timed=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no fork")
def test_checking_large_models_starts_no_threads_that_a_fork_would_miss() -> None:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run([*command, "meta"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "{0: 134217728.0, 1: 134217728.0}\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="no fork")
def test_a_fork_after_threads_would_be_noticed() -> None:
    with started([sys.executable, "-c", SCRIPT, "real"], cwd=REPOSITORY) as process:
        assert process.stdout
        first, *seeds = (psutil.Process(int(process.stdout.readline())) for _ in range(3))
        assert first.pid == process.pid
        looks = deque[bool](maxlen=LOOKS)

        def hang() -> bool:
            """Whether a seed always slept in recent checks; a working seed runs or waits for a core."""
            looks.append(any(each.status() == psutil.STATUS_SLEEPING for each in seeds))
            return len(looks) == LOOKS and all(looks)

        wait_for(hang)
        assert process.poll() is None


def test_stages_run_with_the_python_of_the_runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    repro._use_this_python()
    assert shutil.which("python") == str(Path(sys.executable).parent / "python")
