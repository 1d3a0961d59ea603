"""DVC's remote on a real S3 server: what two machines hand each other, and what they are told when it fails."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.s3 import S3, s3, use

MIB = 2**20


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
    ],
)
def test_wrong_credentials_are_refused(wrong: dict[str, str], sentence: str, tmp_path: Path, store: S3) -> None:
    here = repository(tmp_path / "here", store)
    written(here, store, "data")
    done = dvc(here, store, "push", **wrong)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(path.is_file() for path in (store.folder / store.bucket).rglob("*"))


def test_a_server_that_dies_in_an_upload_leaves_nothing_half(tmp_path: Path, store: S3) -> None:
    here, there = (repository(tmp_path / name, store) for name in ("here", "there"))
    content = written(here, store, "data", 150 * MIB)
    shared(there, here, "data")
    command, own = [sys.executable, "-m", "dvc", "push", "--quiet"], os.environ | store.environment()
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
