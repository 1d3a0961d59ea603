"""Data sets of images: the published data sets, the split into train, validation and test, and the files on disk.

A published data set consists of a few files. This module has the expected SHA-256 of each file's unpacked content.
`ingest/downloads.py` fetches and parses the files. A user's own images come from a folder (`ingest/image_folder.py`).

On disk, a split has two arrays: images and labels. A data set with known factors, such as the shape and the place of an
object in the image, has the factors as a third array.
"""

import functools
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aelab.core import arrays, disk
from aelab.core.errors import UserError

Bytes: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.unsignedinteger]  # (N,)
Shape: TypeAlias = tuple[int, int, int]  # (C, H, W)

FEWEST = 2  # smallest number of images in a split, because interpolation and variance need two images


class Split(NamedTuple):
    """Images with their labels and, if known, the factors that determine each image.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: Class of each image, (N,).
        factors: For each image and each of K factors, an index that says which value the factor has, (N, K). None
            if the factors are unknown.
    """

    images: Bytes
    labels: Labels
    factors: Bytes | None = None


@dataclass(frozen=True)
class Data:
    """A data set with its splits. A split is stored as a list of indices, so no images are read to split a data set.

    Attributes:
        image: Shape (C, H, W) of an image.
        splits: For each split, by name: a collection of images, and the indices of those images that belong to the
            split. Several splits may have the same collection.
        source: Origin of the images, for messages.
        binarised: Names of the splits whose images `save` makes black and white.
        seed: Seed of the binarisation.
    """

    image: Shape
    splits: dict[str, tuple[Split, NDArray[np.int64]]]
    source: str = ""
    binarised: Collection[str] = ()
    seed: int = 0

    def split(self, name: str) -> Split:
        """Return the split "train", "validation" or "test", with all its images in memory."""
        everything, rows = self.splits[name]
        factors = None if everything.factors is None else everything.factors[rows]
        return Split(everything.images[rows], everything.labels[rows], factors)

    @functools.cached_property
    def train(self) -> Bytes:
        """Training images, uint8 (N, C, H, W)."""
        return self.split("train").images

    @functools.cached_property
    def validation(self) -> Bytes:
        """Images for the choice of weights and settings, not used for training, uint8 (N, C, H, W)."""
        return self.split("validation").images

    @functools.cached_property
    def test(self) -> Bytes:
        """Images for the final metrics, not used for any choice, uint8 (N, C, H, W)."""
        return self.split("test").images

    def thinned(self, count: int, key: str = "count") -> "Data":
        """Return the data set with only `count` training images. The other splits stay the same.

        Args:
            count: Number of training images to keep, evenly spread over the training split; at least `FEWEST`.
            key: Name of the argument `count` in the error message.

        Raises:
            UserError: The training split has fewer images, or `count` is less than `FEWEST`.
        """
        everything, rows = self.splits["train"]
        if not FEWEST <= count <= len(rows):
            msg = f"{key} is {count:,}: must be from {FEWEST} to {len(rows):,}, the number of training images"
            raise UserError(msg)
        return replace(self, splits=self.splits | {"train": (everything, rows[evenly(len(rows), count)])})

    def save(self, folder: Path) -> None:
        """Write each split to its own folder: images.npy, labels.npy, factors.npy if factors are known, SHA256SUMS."""
        for name, (everything, rows) in self.splits.items():
            shape = (len(rows), *self.image)
            pieces = arrays.select(everything.images, rows)
            if name in self.binarised:
                pieces = binarise(pieces, self.seed, name)
            arrays.write(folder / name / "images.npy", shape, pieces)
            for file, values in (("labels", everything.labels), ("factors", everything.factors)):
                if values is not None:
                    chosen = values[rows]
                    arrays.write(folder / name / f"{file}.npy", chosen.shape, [chosen], chosen.dtype)
            disk.seal(folder / name)


def divide(everything: Split, source: str, *, validation: float, test: float, seed: int) -> Data:
    """Split a user's images at random into a training, a validation and a test split.

    Args:
        everything: All images.
        source: Origin of the images, for messages.
        validation: Fraction of the images outside the test split that becomes the validation split.
        test: Fraction of all images that becomes the test split. Both fractions are from 0 to less than 1.
        seed: Seed of the split.

    Raises:
        UserError: A split would have fewer than `FEWEST` images, or a fraction is out of range.
    """
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
    """Hold out a random `fraction` of `rows`. Return the other rows and the held-out rows, each in the order of `rows`.

    Raises:
        UserError: `fraction` is less than 0, or 1 or more.
    """
    if not 0 <= fraction < 1:
        msg = f"the share of the images that is held out is {fraction}: must be from 0 to less than 1"
        raise UserError(msg)
    order = np.random.default_rng(seed).permutation(len(rows))
    held = round(len(rows) * fraction)
    return rows[np.sort(order[held:])], rows[np.sort(order[:held])]


def evenly(length: int, count: int) -> NDArray[np.int64]:
    """Return `count` evenly spread indices into a list of `length` elements, from the first to the last: (count,)."""
    return np.linspace(0, length - 1, count).round().astype(np.int64)


def binarise(pieces: Iterable[Bytes], seed: int, split: str) -> Iterator[Bytes]:
    """Make the uint8 images of a split black (0) and white (255). A gray value g becomes white with probability g/255.

    The function compares only integers, so the same seed gives the same bytes on every machine.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"binarise/{split}".encode())])
    for gray in pieces:
        drawn = rng.integers(0, 255, gray.shape, dtype=np.uint8)  # at most 254, so that 255 always becomes white
        yield np.where(drawn < gray, np.uint8(255), np.uint8(0))


@dataclass(frozen=True)
class Dataset:
    """Facts about a published data set that are known before its download.

    Attributes:
        image: Shape (C, H, W) of an image.
        files: For each file name, the SHA-256 of the file's unpacked content.
        binarised: Whether the published images are black and white.
        validation: Number of images in the published validation split; 0 without such a split. The published files
            have the validation images after the training images.
    """

    image: Shape
    files: dict[str, str]
    binarised: bool = False
    validation: int = 0


DATASETS = {
    "mnist": Dataset(
        image=(1, 28, 28),
        files={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion-mnist": Dataset(
        image=(1, 28, 28),
        files={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
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
    ),
    "binarized-mnist": Dataset(
        image=(1, 28, 28),
        files={
            "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
            "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
            "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
        },
        binarised=True,
        validation=10_000,
    ),
    "digits": Dataset(
        image=(1, 8, 8),
        files={
            "images": "b41ca9fd335466eee997366c2e6f6bbe0a1b4582afe091fc4eba35f4a254182f",
            "labels": "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0",
        },
    ),
    "shapes": Dataset(  # `ingest/shapes.py` draws the images from known factors
        image=(1, 28, 28),
        files={"factors": "e3073b16e537f5b8efe1abf09b4719feac894878af8c712117c2cbdec41794d3"},
    ),
}
