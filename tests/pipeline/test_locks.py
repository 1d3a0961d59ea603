import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.runner import locks, repro


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    return tmp_path


WHOLE = """schema: '2.0'
stages:
  download:
    cmd: python -m pipeline.stages.download
    outs:
    - path: data/clean/train
      md5: 0123456789abcdef0123456789abcdef.dir
"""


def test_a_whole_lock_is_whole(folder: Path) -> None:
    assert not locks.torn()  # none at all
    (folder / "dvc.lock").write_text(WHOLE)
    assert not locks.torn()
    locks.mend()


@pytest.mark.parametrize("length", [0, 10, 30, 50, 80, 100])
def test_a_torn_lock_is_a_sentence_with_a_remedy(length: int, folder: Path) -> None:
    (folder / "dvc.lock").write_text(WHOLE[:length])
    with pytest.raises(
        SystemExit, match=r"dvc\.lock is damaged: .*what mends it: git checkout dvc\.lock, or rm dvc\.lock;"
    ):
        locks.mend()


def test_a_torn_list_of_busy_files_is_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / locks.BUSY).write_text('{"write": {"models/ae": {"pi')
    locks.mend()
    assert not (folder / locks.BUSY).exists()
    assert "which a killed DVC had left unfinished" in capsys.readouterr().out


def test_a_dvc_at_work_is_waited_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at_work = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    write = {"models/ae": {"pid": at_work.pid, "cmd": "dvc repro"}, "models/vae": {"pid": 4194304, "cmd": "dvc repro"}}
    (folder / locks.BUSY).write_text(json.dumps({"write": write, "read": {}}))
    assert locks.at_work() == [at_work.pid]

    def end() -> None:
        time.sleep(0.5)
        at_work.kill()
        at_work.wait()

    threading.Thread(target=end).start()
    locks.mend()
    assert f"waiting for another DVC that is at work here, process {at_work.pid}" in capsys.readouterr().out


HOLDER = """
import subprocess, sys
from pipeline.runner import locks

with locks.turn() as turn:
    inherits = [turn] if "inherits" in sys.argv else []
    stage = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=inherits)
    print(stage.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["inherits", "inherits nothing"])
def holder(request: pytest.FixtureRequest) -> Iterator[tuple["subprocess.Popen[str]", psutil.Process, bool]]:
    """A runner that has its turn, a stage of the runner, and whether the stage has inherited the turn."""
    environment = os.environ | {"PYTHONPATH": str(Path(locks.__file__).parents[2])}
    command = [sys.executable, "-c", HOLDER, *request.param.split()[:2]]
    if request.param == "inherits nothing":
        command = command[:-2]
    runner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
    assert runner.stdout is not None
    stage = psutil.Process(int(runner.stdout.readline()))
    yield runner, stage, request.param == "inherits"
    for process in (runner, stage):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    runner.wait()


def _has_turn(began: threading.Event) -> None:
    with locks.turn():
        began.set()


def test_two_runners_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    script = (
        "from pipeline.runner import repro; import time\nwith repro._alone(): print('in', flush=True); time.sleep(1)"
    )
    root = Path(repro.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with repro._alone():
            assert other.wait(10) == 0
    assert "another `make repro` is at work here: waiting for it" in capsys.readouterr().out
