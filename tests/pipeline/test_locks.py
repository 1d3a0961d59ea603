import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from pipeline.runner import locks
from tests.support.processes import wait_for


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
    assert locks.damage() is None  # no lock file
    (folder / "dvc.lock").write_text(WHOLE)
    assert locks.damage() is None
    locks.mend()


ACCEPTED = {
    "a stage without outputs": "  hello:\n    cmd: echo hi\n    deps:\n    - path: README.md\n      hash: md5\n"
    "      md5: 0123456789abcdef0123456789abcdef\n      size: 3\n",
    "a stage of nothing but a command": "  hello:\n    cmd: echo hi\n",
    "several commands": "  hello:\n    cmd:\n    - echo hi\n    - echo ho\n",
    "parameters alone": "  hello:\n    cmd: echo hi\n    params:\n      params.yaml:\n        hello.times: 3\n",
    "an output of a version-aware remote": "  hello:\n    cmd: echo hi\n    outs:\n    - path: greeting\n"
    "      hash: md5\n      md5: 0123456789abcdef0123456789abcdef\n      size: 3\n"
    "      cloud:\n        store:\n          etag: abc\n"
    "          version_id: x.1\n",
    "a folder of a version-aware remote": "  hello:\n    cmd: echo hi\n    outs:\n    - path: greetings\n"
    "      hash: md5\n      files:\n"
    "      - relpath: a\n        md5: 0123456789abcdef0123456789abcdef\n        size: 3\n",
    "a dependency of a bucket": "  hello:\n    cmd: echo hi\n    deps:\n    - path: s3://bucket/a\n      etag: 1a-2\n"
    "      size: 3\n",
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_what_dvc_writes_is_whole(kind: str, folder: Path) -> None:
    (folder / "dvc.lock").write_text(WHOLE + ACCEPTED[kind])
    assert locks.damage() is None


CONFLICT = """<<<<<<< HEAD
      md5: 0123456789abcdef0123456789abcdef.dir
=======
      md5: fedcba9876543210fedcba9876543210.dir
>>>>>>> other
"""


def test_the_conflict_of_a_merge_is_told_from_damage(folder: Path) -> None:
    (folder / "dvc.lock").write_text(WHOLE.replace("      md5: 0123456789abcdef0123456789abcdef.dir\n", CONFLICT))
    with pytest.raises(SystemExit, match=r"an unresolved merge conflict in line 7; .*resolve params\.yaml first"):
        locks.mend()


@pytest.mark.parametrize("length", [0, 10, 30, 50, 80, 100])
def test_a_torn_lock_is_a_sentence_with_a_remedy(length: int, folder: Path) -> None:
    (folder / "dvc.lock").write_text(WHOLE[:length])
    with pytest.raises(SystemExit, match=r"dvc\.lock is damaged: .*remedy: git checkout dvc\.lock, or rm dvc\.lock;"):
        locks.mend()


def test_a_torn_list_of_busy_files_is_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / locks.BUSY).write_text('{"write": {"models/ae": {"pi')
    locks.mend()
    assert not (folder / locks.BUSY).exists()
    assert "which a killed DVC command had left unfinished" in capsys.readouterr().out


def until_said(sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wait until this process has printed a sentence."""
    said = list[str]()

    def has_said() -> bool:
        said.append(capsys.readouterr().out)
        return sentence in "".join(said)

    wait_for(has_said)


@contextmanager
def waiting(*words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process with these words in its command, which waits until its input ends."""
    with subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE) as process:
        wait_for(psutil.Process(process.pid).cmdline)  # Linux shows no command for a moment after the start
        yield process
        process.kill()


def test_a_dvc_at_work_is_waited_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with waiting() as at_work:
        cmd = f"{sys.executable} -c input()"
        writers = {"models/ae": {"pid": at_work.pid, "cmd": cmd}, "models/vae": {"pid": 4194304, "cmd": "dvc"}}
        (folder / locks.BUSY).write_text(json.dumps({"write": writers, "read": {}}))
        assert locks.at_work() == [at_work.pid]
        waits = threading.Thread(target=locks.mend)
        waits.start()
        until_said(f"waiting for another DVC command that runs here, process {at_work.pid}", capsys)
        at_work.kill()
        at_work.wait()
        waits.join()


@pytest.mark.parametrize("how", ["write", "read"])
@pytest.mark.parametrize("whose", ["another program", "a later DVC", "this process", "nobody"])
def test_a_number_that_another_process_has_by_now_is_not_waited_for(
    how: str, whose: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a container, process numbers start at the same value each time, often with the same commands."""
    with waiting("notes") as other, waiting("dvc", "repro") as reader:
        numbers = {"another program": other.pid, "a later DVC": reader.pid, "this process": os.getpid()}
        stale = {"pid": numbers.get(whose, 4194304), "cmd": "/usr/bin/dvc repro"}
        note = {"pid": reader.pid, "cmd": "dvc repro"}
        reads = {} if whose == "a later DVC" else {"params.yaml": [note]}
        listed = {"write": {"a": stale}, "read": reads} if how == "write" else {"read": reads | {"a": [stale]}}
        (folder / locks.BUSY).write_text(json.dumps(listed))
        if whose == "a later DVC":
            os.utime(folder / locks.BUSY, (0, 0))
        locks.mend()
        assert locks.busy_list() == {"write": {}, "read": reads}
        assert "removed the entries of a killed DVC command from" in capsys.readouterr().out


RUNNER = """
import subprocess, sys
from pipeline.runner import locks
from tests.support.processes import wait_for

with locks.turn() as turn:
    inherits = [turn] if "inherits" in sys.argv else []
    stage = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], pass_fds=inherits)
    print(stage.pid, flush=True)
    sys.stdin.read()
    stage.kill()
    stage.wait()
"""


@contextmanager
def runner(*how: str) -> Iterator[tuple["subprocess.Popen[str]", psutil.Process]]:
    """Start a runner that keeps its turn until its input ends, and return it with its stage."""
    environment = os.environ | {"PYTHONPATH": str(Path(locks.__file__).parents[2])}
    command = [sys.executable, "-c", RUNNER, *how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as begun:
        assert begun.stdout is not None
        stage = psutil.Process(int(begun.stdout.readline()))
        try:
            yield begun, stage
        finally:
            for each in (begun, stage):
                with suppress(psutil.NoSuchProcess):
                    each.kill()


def test_two_runners_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    order = []

    def second() -> None:
        with locks.turn():
            order.append("the second begins")

    with runner() as (first, _):
        waits = threading.Thread(target=second)
        waits.start()
        until_said("another `make repro` is running here: waiting for it", capsys)
        order.append("the first ends")
        first.communicate("")
        waits.join()
    assert order == ["the first ends", "the second begins"]


@pytest.mark.parametrize("how", ["inherits", "inherits nothing"])
def test_the_turn_of_a_killed_runner_lasts_until_its_stages_have_left(how: str) -> None:
    with runner(*([how] if how == "inherits" else [])) as (killed, stage), locks.TURN.open() as file:
        killed.kill()
        killed.wait()
        if how == "inherits":
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stage.kill()
            stage.wait()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a stage that inherits no file would not hold the turn
