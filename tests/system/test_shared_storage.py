"""DVC's remote on a real S3 server: exchange between two machines, and messages after failures."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dvc.config import Config
from dvc.repo import Repo

from tests.support.processes import started, wait_for
from tests.support.s3 import S3, s3, use

MIB = 2**20
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # from a package that DVC uses
IMPATIENT = {"AWS_MAX_ATTEMPTS": "1"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[S3]:
    with s3(tmp_path / "s3") as server:
        yield server


def repository(folder: Path, store: S3) -> Path:
    """Make a DVC repository with the store as its remote."""
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    Repo.init(str(folder)).close()
    use(folder, store)
    return folder


def environment(store: S3, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS")}
    return kept | store.environment() | {"DVC_NO_ANALYTICS": "true"} | more


def dvc(folder: Path, store: S3, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=environment(store, **more),
    )  # fmt: skip


def written(folder: Path, name: str, size: int = MIB) -> bytes:
    """Write a file of random bytes under DVC."""
    content = os.urandom(size)
    keep(folder, name, content)
    return content


def keep(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with Repo(str(folder)) as repo:
        repo.add(str(folder / name))


def set_remote(folder: Path, **options: object) -> None:
    with Config(str(folder / ".dvc")).edit("repo") as config:
        config["remote"]["s3"] |= options


def shared(there: Path, here: Path, name: str) -> None:
    """Copy the files that git would transfer."""
    (there / f"{name}.dvc").write_text((here / f"{name}.dvc").read_text())


def test_two_machines_push_and_each_pulls_what_the_other_has(tmp_path: Path, store: S3) -> None:
    one, two = (repository(tmp_path / name, store) for name in ("one", "two"))
    both = os.urandom(MIB)
    for folder in (one, two):
        keep(folder, "both", both)
    contents = {one: written(one, "first"), two: written(two, "second")}
    command, own = [sys.executable, "-m", "dvc", "push", "--quiet"], environment(store)
    with started(command, cwd=one, env=own) as first, started(command, cwd=two, env=own) as second:
        said = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    shared(one, two, "second")
    shared(two, one, "first")
    for folder, name, other in ((one, "second", two), (two, "first", one)):
        done = dvc(folder, store, "pull", "--quiet")
        assert done.returncode == 0, done.stderr
        assert (folder / name).read_bytes() == contents[other]


def test_wrong_credentials_are_refused(tmp_path: Path, store: S3) -> None:
    here = repository(tmp_path / "here", store)
    written(here, "data")
    for wrong, sentence in (
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "Forbidden"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "Forbidden"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_EC2_METADATA_DISABLED": "true"}, "Unable to locate credentials"),
    ):
        done = dvc(here, store, "push", **wrong, HOME=str(tmp_path))  # a home without anyone's keys
        assert done.returncode != 0
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
        assert not any(path.is_file() for path in (store.folder / store.bucket).rglob("*"))


def large(folder: Path, name: str) -> bytes:
    """Write a file that takes a moment to transfer."""
    return written(folder, name, 150 * MIB)


def broken_off(folder: Path, store: S3, what: str, begun: Callable[[], object]) -> bool:
    """Kill the server once the transfer has `begun`; return whether the kill came before the transfer's end."""
    with started([sys.executable, "-m", "dvc", what, "--quiet"], cwd=folder, env=environment(store, **IMPATIENT)) as to:
        wait_for(lambda: begun() or to.poll() is not None)
        store.kill()
        said, _ = to.communicate()
    store.start()
    assert "Traceback" not in said
    return to.returncode != 0


def files(folder: Path, larger_than: int) -> list[Path]:
    with contextlib.suppress(OSError):  # a file may be renamed meanwhile
        return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > larger_than]
    return []


def test_a_server_that_dies_in_an_upload_leaves_nothing_half(tmp_path: Path, store: S3) -> None:
    here, there = (repository(tmp_path / name, store) for name in ("here", "there"))

    def upload_broken_off() -> bool:
        large(here, "data")  # a new file each time
        kept = files(store.folder, 0)
        return broken_off(here, store, "push", lambda: len(files(store.folder, 0)) > len(kept))

    wait_for(upload_broken_off)
    shared(there, here, "data")
    assert dvc(there, store, "pull").returncode != 0
    assert not (there / "data").exists()
    for folder, what in ((here, "push"), (there, "pull")):
        done = dvc(folder, store, what, "--quiet")
        assert done.returncode == 0, done.stderr
    assert (there / "data").read_bytes() == (here / "data").read_bytes()


def test_a_server_that_dies_in_a_download_leaves_nothing_half(tmp_path: Path, store: S3) -> None:
    here, there = (repository(tmp_path / name, store) for name in ("here", "there"))
    content = large(here, "data")
    assert dvc(here, store, "push").returncode == 0
    shared(there, here, "data")

    def download_broken_off() -> bool:
        if broken_off(there, store, "pull", lambda: files(there / ".dvc", MIB)):
            return True
        (there / "data").unlink()
        shutil.rmtree(there / ".dvc/cache")
        return False

    wait_for(download_broken_off)
    assert not (there / "data").exists()
    done = dvc(there, store, "pull", "--quiet")
    assert done.returncode == 0, done.stderr
    assert (there / "data").read_bytes() == content


@pytest.mark.parametrize("verify", [True, False])
def test_a_flipped_byte_is_found_where_downloads_are_verified(verify: bool, tmp_path: Path, store: S3) -> None:  # noqa: FBT001
    here, there = (repository(tmp_path / name, store) for name in ("here", "there"))
    content = written(here, "data")
    assert dvc(here, store, "push").returncode == 0
    (kept,) = (path for path in (store.folder / store.bucket).rglob("*") if path.is_file())
    kept.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    store.kill()
    store.start()
    shared(there, here, "data")
    set_remote(there, verify=verify)
    pulled = dvc(there, store, "pull").returncode == 0
    assert pulled is not verify  # negative control: without verification, the flipped byte arrives


@pytest.mark.parametrize("of_the_whole", [False, True])
def test_an_object_that_is_read_in_parts_is_not_held_against_the_checksum_of_the_whole(
    of_the_whole: bool,  # noqa: FBT001
    tmp_path: Path,
    store: S3,
) -> None:
    """A file from 50 to 100 MiB is written in one piece and read in two; with the default setting it is refused."""
    here, there = (repository(tmp_path / name, store) for name in ("here", "there"))
    content = written(here, "data", 60 * MIB)
    assert dvc(here, store, "push").returncode == 0
    shared(there, here, "data")
    setting = {"AWS_RESPONSE_CHECKSUM_VALIDATION": "when_supported"} if of_the_whole else {}
    done = dvc(there, store, "pull", **setting)
    assert ("Expected checksum" in done.stderr) is of_the_whole
    assert (there / "data").exists() is not of_the_whole
    assert of_the_whole or (there / "data").read_bytes() == content


def test_what_one_machine_has_run_another_takes_from_the_run_cache(tmp_path: Path, store: S3) -> None:
    here, there = (repository(tmp_path / name, store) for name in ("here", "there"))
    stage = {"dvc.yaml": "stages:\n  copy: {cmd: cp in out, deps: [in], outs: [out]}\n", "in": "data"}
    for folder in (here, there):
        for name, text in stage.items():
            (folder / name).write_text(text)
    assert dvc(here, store, "repro").returncode == 0
    assert dvc(here, store, "push", "--run-cache").returncode == 0
    assert "Stage 'copy' is cached" in dvc(there, store, "repro", "--pull").stdout
    assert (there / "out").read_text() == "data"


def test_an_unknown_bucket_is_named_as_such(tmp_path: Path, store: S3) -> None:
    here = repository(tmp_path / "here", store)
    written(here, "data")
    set_remote(here, url="s3://elsewhere/dvc")
    done = dvc(here, store, "push")
    assert done.returncode != 0
    assert "The specified bucket does not exist" in done.stderr
