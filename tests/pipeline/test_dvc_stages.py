"""Tests of DVC's part in the runner's process, with stages that are lines of shell."""

import fcntl
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from aelab.core.disk import write_atomically
from pipeline.common import params
from pipeline.runner import locks, repro
from pipeline.runner.console import ConsoleLog
from pipeline.runner.dvc_stages import DvcStages
from pipeline.runner.local import LocalExecutor
from pipeline.runner.plan import plan_run
from tests.support.parameters import DEFAULT
from tests.support.processes import PATIENCE, gone
from tests.support.project import REPOSITORY, outcomes

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # from a package that DVC uses

TOY = """
stages:
  first: {cmd: seq 3 > first, outs: [first]}
  second:
    foreach: [a, b]
    do: {cmd: "echo $DVC_STAGE && cat first in > ${item}", deps: [first, in], outs: ["${item}"]}
  last: {cmd: cat a b > last, deps: [a, b], outs: [last: {cache: false}]}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project whose stages are lines of shell."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path("dvc.yaml").write_text(TOY)
    Path("in").write_text("data\n")
    Repo.init().close()
    return tmp_path


def run_here() -> list[str]:
    """Run the project in this folder, and return the failed stages."""
    checked, dvc = params.check(DEFAULT, variants=False), DvcStages()
    made = plan_run(dvc, checked, elsewhere=False)
    with LocalExecutor(checked, 2, ConsoleLog(), dvc) as local:
        return repro.run(made, local)


def status() -> dict[str, object]:
    with Repo() as repo:
        return dict(repo.status())


def nobody_is_busy() -> bool:
    return not any((locks.busy_list() or {}).values())


def test_a_run_leaves_what_dvc_leaves(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here() == []
    said = capsys.readouterr().out
    assert sorted(outcomes(said, "done")) == ["first", "last", "second@a", "second@b"]
    assert "second@a | second@a\n" in said
    assert Path("logs/second@a.log").read_text() == "> echo $DVC_STAGE && cat first in > a\nsecond@a\n"
    assert status() == {}
    assert nobody_is_busy()
    side_by_side = YAML(typ="safe", pure=True).load(toy / "dvc.lock")
    ignored = Path(".gitignore").read_text().split()
    Path("dvc.lock").unlink()
    with Repo() as repo:
        repo.reproduce(force=True)
    assert YAML(typ="safe", pure=True).load(toy / "dvc.lock") == side_by_side
    assert sorted(Path(".gitignore").read_text().split()) == sorted(ignored)


def test_what_has_not_changed_is_not_run_and_what_was_run_before_is_restored(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here()
    Path("in").write_text("other\n")
    run_here()
    Path("in").write_text("data\n")
    capsys.readouterr()
    assert run_here() == []
    said = capsys.readouterr().out
    assert sorted(outcomes(said, "cached")) == ["second@a", "second@b"]
    assert outcomes(said, "done") == ["last"]  # its output is not cached
    assert "data" in (toy / "a").read_text()
    Path("b").unlink()
    run_here()
    said = capsys.readouterr().out
    assert (outcomes(said, "cached"), outcomes(said, "done")) == (["second@b"], [])
    assert status() == {}


def test_a_run_that_was_killed_before_it_wrote_dvc_lock_loses_nothing(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(DvcStages, "write_lock", lambda _: None)
        assert run_here() == []
    assert not (toy / "dvc.lock").exists()
    bits = {name: (toy / name).read_bytes() for name in ("first", "a", "b", "last")}
    capsys.readouterr()
    run_here()
    said = capsys.readouterr().out
    assert sorted(outcomes(said, "cached")) == [
        "second@a",
        "second@b",
    ]  # stages without dependencies or a cache run again
    assert {name: (toy / name).read_bytes() for name in bits} == bits
    assert status() == {}


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("share", "times"), [(1e-9, 3), (math.inf, 4)])
def test_dvc_lock_is_written_for_several_stages_at_once(
    share: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little time for writing: after the first stage, before the last stage, and at the end of the run."""
    written = []

    def write(path: Path, content: bytes) -> None:
        written.append(path)
        write_atomically(path, content)

    monkeypatch.setattr("pipeline.runner.dvc_stages.write_atomically", write)
    monkeypatch.setattr("pipeline.runner.dvc_stages.WRITING", share)
    assert run_here() == []
    assert written == [locks.DVC_LOCK] * times
    assert status() == {}


def test_the_last_stage_finds_all_others_in_dvc_lock(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report needs that."""
    monkeypatch.setattr("pipeline.runner.dvc_stages.WRITING", 1e-9)
    Path("dvc.yaml").write_text(TOY.replace("cat a b > last", "cat dvc.lock a b > last"))
    assert run_here() == []
    seen = (toy / "last").read_text()
    assert all(f"{name}:\n" in seen for name in ("first", "second@a", "second@b"))
    assert "last:" not in seen


def test_when_a_stage_fails_the_others_go_on(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dvc.yaml").write_text(
        TOY
        + "  bad: {cmd: echo why && false, deps: [first], outs: [bad]}\n"
        + "  liar: {cmd: 'true', deps: [first], outs: [nothing]}\n"
        + "  after: {cmd: cp bad after, deps: [bad], outs: [after]}\n"
    )
    failed = run_here()
    assert sorted(failed) == ["bad", "liar"]
    said = capsys.readouterr().out
    assert "last" in outcomes(said, "done")
    assert Path("logs/bad.log").read_text().endswith("\nwhy\n")
    assert "ERROR: output 'nothing' does not exist" in Path("logs/liar.log").read_text()
    assert set(YAML(typ="safe", pure=True).load(toy / "dvc.lock")["stages"]) == {
        "first",
        "second@a",
        "second@b",
        "last",
    }
    assert nobody_is_busy()


@pytest.mark.usefixtures("toy")
def test_stages_of_the_users_own_need_no_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    """With DVC and with the runner, dvc.lock stays complete."""
    Path("dvc.yaml").write_text(
        TOY
        + "  hello: {cmd: echo hi, deps: [in]}\n"
        + "  looks: {cmd: date > seen, always_changed: true, outs: [seen]}\n"
        + "  follows: {cmd: wc -l < seen > lines, deps: [seen], outs: [lines]}\n"
    )
    subprocess.run([sys.executable, "-m", "dvc", "repro", "hello"], check=True)
    locks.mend()
    assert run_here() == []
    locks.mend()
    said = capsys.readouterr().out
    assert "hello" not in outcomes(said, "done")  # DVC has already run this stage
    assert {"looks", "follows"} <= set(outcomes(said, "done"))
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text().replace("date > seen", "touch seen"))
    for ran in ({"looks", "follows"}, {"looks"}):
        assert run_here() == []
        assert (
            set(outcomes(capsys.readouterr().out, "done")) == ran
        )  # it always runs; the next stage only after a change


def test_what_running_stages_read_and_write_is_busy(toy: Path) -> None:
    run_here()
    Path("in").write_text("other\n")
    dvc = DvcStages()
    with Path(os.devnull).open("w", encoding="utf-8") as log:
        for name in ("second@a", "second@b"):
            assert dvc.begin(name, log) is None
        dvc.abandon("second@a", log)
        busy = locks.busy_list()
        assert busy is not None
        assert set(busy["write"]) == {str(toy / "b")}
        assert set(busy["read"]) == {str(toy / "in"), str(toy / "first")}  # read by both stages, then by one
        script = "from dvc.repo import Repo; Repo().reproduce({!r}, single_item=True, force=True)"
        for name, refused in (("first", True), ("second@b", True), ("second@a", False)):
            command = [sys.executable, "-c", script.format(name)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ("is busy" in done.stderr) is refused, done.stderr
        dvc.abandon("second@b", log)


def test_what_another_dvc_is_at_fails_with_the_reason(toy: Path) -> None:
    run_here()
    Path("in").write_text("other\n")
    writes = {str(toy / "a"): {"pid": os.getpid(), "cmd": "dvc repro"}}
    locks.BUSY.write_text(json.dumps({"write": writes, "read": {}}))
    failed = run_here()
    assert failed == ["second@a"]
    assert (
        f"a' is busy, it is being blocked by:\n  (PID {os.getpid()}): dvc repro"
        in Path("logs/second@a.log").read_text()
    )


@pytest.mark.usefixtures("toy")
def test_dvcs_own_files_are_kept_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """A file under `dvc add` has no command."""
    Path("in").unlink()
    Path("folder").mkdir()
    Path("folder/in").write_text("data")
    with Repo() as repo:
        repo.add("folder/in")
    Path("folder/in").write_text("other")
    Path("dvc.yaml").write_text(TOY.replace(" in ", " folder/in ").replace(", in]", ", folder/in]"))
    assert run_here() == []
    assert outcomes(capsys.readouterr().out, "done")[0] == "folder/in.dvc"
    assert status() == {}
    assert "other" in Path("a").read_text()


LISTENS = """
import os, time
from pipeline.common import stage

def work(*_):
    print("begun", os.getpid(), flush=True)
    while True:
        time.sleep(0.01)

stage.run(work, None, variants=False)
"""
LONG = """
stages:
  listens: {cmd: python listens.py, outs: [a]}
  sleeps: {cmd: echo begun $$ && exec sleep 3600, outs: [b]}
"""


@pytest.fixture
def runner(toy: Path) -> Iterator[tuple["subprocess.Popen[str]", dict[str, psutil.Process]]]:
    """Start a runner, and return it with its two stages."""
    Path("dvc.yaml").write_text(LONG)
    Path("listens.py").write_text(LISTENS)
    YAML().dump(DEFAULT, Path("params.yaml"))
    command = [sys.executable, "-m", "pipeline.runner.repro", "--jobs", "2"]
    own = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    stages: dict[str, psutil.Process] = {}
    with subprocess.Popen(command, cwd=toy, env=own, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout or ():
                if found := re.match(r"(\w+) +\| begun (\d+)", line):
                    stages[found[1]] = psutil.Process(int(found[2]))
                if len(stages) == 2:
                    break
            yield process, stages
        finally:
            for each in (process, *stages.values()):
                with suppress(psutil.NoSuchProcess):
                    each.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_leave_a_runner_ends_its_stages_and_waits_for_them(
    number: signal.Signals, runner: tuple["subprocess.Popen[str]", dict[str, psutil.Process]]
) -> None:
    process, stages = runner
    process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + number
    assert not any(stage.is_running() for stage in stages.values())
    assert nobody_is_busy()


def test_the_stages_of_a_killed_runner_leave_and_have_its_turn_until_then(
    runner: tuple["subprocess.Popen[str]", dict[str, psutil.Process]],
) -> None:
    process, stages = runner
    process.kill()
    process.wait()
    assert gone([stages["listens"]])
    assert stages["sleeps"].is_running()  # it does not listen for signals
    with locks.TURN.open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stages["sleeps"].kill()
        assert gone(list(stages.values()))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert locks.at_work() == []
