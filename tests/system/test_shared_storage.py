"""DVC's remote on a real S3 server: what two machines hand each other, and what they are told when it fails."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.s3 import S3, s3, use

MIB = 2**20
IMPATIENT = {"AWS_MAX_ATTEMPTS": "1"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[S3]:
    with s3(tmp_path / "s3") as server:
        yield server


def repository(folder: Path, store: S3) -> Path:
    """A DVC repository that has the store as its remote."""
    folder.mkdir()
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=folder, check=True)
    use(folder, store)
    return folder


def dvc(folder: Path, store: S3, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS")}
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=kept | store.environment() | {"DVC_NO_ANALYTICS": "true"} | more,
    )  # fmt: skip


def written(folder: Path, store: S3, name: str, size: int = MIB) -> bytes:
    """A file of random bytes that DVC keeps."""
    content = os.urandom(size)
    (folder / name).write_bytes(content)
    done = dvc(folder, store, "add", "--quiet", name)
    assert done.returncode == 0, done.stderr
    return content


def shared(there: Path, here: Path, name: str) -> None:
    """What git would carry."""
    (there / f"{name}.dvc").write_text((here / f"{name}.dvc").read_text())


def test_two_machines_push_and_each_pulls_what_the_other_has(tmp_path: Path, store: S3) -> None:
    one, two = (repository(tmp_path / name, store) for name in ("one", "two"))
    both = os.urandom(MIB)
    for folder in (one, two):
        (folder / "both").write_bytes(both)
        assert dvc(folder, store, "add", "--quiet", "both").returncode == 0
    contents = {one: written(one, store, "first"), two: written(two, store, "second")}
    command, own = [sys.executable, "-m", "dvc", "push", "--quiet"], os.environ | store.environment()
    pushing = [subprocess.Popen(command, cwd=folder, env=own) for folder in (one, two)]
    assert [process.wait() for process in pushing] == [0, 0]
    shared(one, two, "second")
    shared(two, one, "first")
    for folder, name, other in ((one, "second", two), (two, "first", one)):
        done = dvc(folder, store, "pull", "--quiet")
        assert done.returncode == 0, done.stderr
        assert (folder / name).read_bytes() == contents[other]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "Forbidden"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "Forbidden"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_EC2_METADATA_DISABLED": "true"}, "Unable to locate credentials"),
    ],
)
def test_wrong_credentials_are_refused(wrong: dict[str, str], sentence: str, tmp_path: Path, store: S3) -> None:
    here = repository(tmp_path / "here", store)
    written(here, store, "data")
    done = dvc(here, store, "push", **wrong, HOME=str(tmp_path))  # where no keys of somebody's lie
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(path.is_file() for path in (store.folder / store.bucket).rglob("*"))


def test_a_server_that_dies_in_an_upload_leaves_nothing_half(tmp_path: Path, store: S3) -> None:
    here, there = (repository(tmp_path / name, store) for name in ("here", "there"))
    content = written(here, store, "data", 150 * MIB)
    shared(there, here, "data")
    command, own = [sys.executable, "-m", "dvc", "push", "--quiet"], os.environ | store.environment() | IMPATIENT
    process = subprocess.Popen(command, cwd=here, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (begun := [path for path in store.folder.rglob("*") if path.is_file()]) and process.poll() is None:
        time.sleep(0.01)
    store.kill()
    said = process.communicate()[0].decode()
    store.start()
    if process.returncode == 0:
        pytest.skip("it was faster than the kill")
    assert "Traceback" not in said
    assert dvc(there, store, "pull").returncode != 0, begun
    assert not (there / "data").exists()
    for folder, what in ((here, "push"), (there, "pull")):
        done = dvc(folder, store, what, "--quiet")
        assert done.returncode == 0, done.stderr
    assert (there / "data").read_bytes() == content


@pytest.mark.parametrize("verify", [True, False])
def test_a_flipped_byte_is_found_where_downloads_are_verified(verify: bool, tmp_path: Path, store: S3) -> None:  # noqa: FBT001
    here, there = (repository(tmp_path / name, store) for name in ("here", "there"))
    content = written(here, store, "data")
    assert dvc(here, store, "push").returncode == 0
    (kept,) = (path for path in (store.folder / store.bucket).rglob("*") if path.is_file())
    kept.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    store.kill()
    store.start()
    shared(there, here, "data")
    assert dvc(there, store, "remote", "modify", "s3", "verify", str(verify).lower()).returncode == 0
    pulled = dvc(there, store, "pull").returncode == 0
    assert pulled is not verify  # the negative control: without it the flipped byte arrives


@pytest.mark.parametrize("of_the_whole", [False, True])
def test_an_object_that_is_read_in_parts_is_not_held_against_the_checksum_of_the_whole(
    of_the_whole: bool,  # noqa: FBT001
    tmp_path: Path,
    store: S3,
) -> None:
    """From 50 to 100 MiB: written in one piece, read in two. With the default, the negative control, it is refused."""
    here, there = (repository(tmp_path / name, store) for name in ("here", "there"))
    content = written(here, store, "data", 60 * MIB)
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
    written(here, store, "data")
    assert dvc(here, store, "remote", "modify", "s3", "url", "s3://elsewhere/dvc").returncode == 0
    done = dvc(here, store, "push")
    assert done.returncode != 0
    assert "The specified bucket does not exist" in done.stderr


def test_a_server_that_dies_in_a_download_leaves_nothing_half(tmp_path: Path, store: S3) -> None:
    here, there = (repository(tmp_path / name, store) for name in ("here", "there"))
    content = written(here, store, "data", 150 * MIB)
    assert dvc(here, store, "push").returncode == 0
    shared(there, here, "data")
    command, own = [sys.executable, "-m", "dvc", "pull", "--quiet"], os.environ | store.environment() | IMPATIENT
    process = subprocess.Popen(command, cwd=there, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def arriving() -> list[Path]:
        with contextlib.suppress(OSError):  # it is renamed meanwhile
            return [path for path in (there / ".dvc").rglob("*") if path.is_file() and path.stat().st_size > MIB]
        return []

    while not arriving() and process.poll() is None:
        time.sleep(0.01)
    store.kill()
    said = process.communicate()[0].decode()
    store.start()
    if process.returncode == 0:
        pytest.skip("it was faster than the kill")
    assert "Traceback" not in said
    assert not (there / "data").exists()
    done = dvc(there, store, "pull", "--quiet")
    assert done.returncode == 0, done.stderr
    assert (there / "data").read_bytes() == content
