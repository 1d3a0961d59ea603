"""Folder of a user's images as a data set: uint8 images of one size, in the order of the files' paths.

The first-level subfolders are the classes. Two kinds of first-level subfolders are not classes: a single folder around
all class folders, and folders that all have names of splits, such as "train" and "test". The subfolders of such folders
are the classes. Links are followed. A file that cannot be read is left out, and listed with the reason.

Transparent pixels become white. 16-bit values are scaled to 8 bits. A setting says how many of the 16 bits the values
use, for example 12 for values up to 4095. If each colour channel has 16 bits, Pillow reads only the upper 8 bits.
Pixels of 32 bits are not supported, because the file does not say which value is white. Colour profiles are ignored.
Only the first frame or page of a file is read. Each image is turned upright according to its EXIF data.

For a damaged TIFF file, the decoder libtiff writes a line to the standard error. Python cannot prevent this line.
"""

import contextlib
import errno
import functools
import io
import itertools
import os
import re
import stat
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin
from PIL.Image import Resampling

from aelab.core.disk import LITTER
from aelab.core.errors import UserError
from aelab.core.progress import counted, part
from aelab.data.datasets import Bytes, Shape

# How an image gets the size of the data set's images. "crop" scales the image to cover this size, and cuts off two
# opposite borders. "pad" scales the image to fit into this size, and adds two opposite black borders. "stretch" changes
# the aspect ratio. "exact" leaves out images of another size.
Fit: TypeAlias = Literal["crop", "pad", "stretch", "exact"]

PLUGINS = (WebPImagePlugin, TiffImagePlugin)  # Pillow registers only some formats by default, so these two are imported
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
# Maximum number of pixels of an image. Decoding takes up to 17 bytes of memory per pixel. Pillow's own limit is 179
# million pixels.
MAX_PIXELS = 100_000_000
AHEAD = 16  # For each worker thread, at most this many decoded images wait for an earlier, slower image.
BYTE, FULL = 8, 16  # Bits of a value in the data set, and bits of a value in a 16-bit file.
# JPEG decoding and box filters, which are fast but coarse, shrink an image to no less than SPARE times the final size.
# A better filter does the rest.
SPARE = 2.0
# Maximum size in bytes of a PNG's unpacked text or colour profile. Pillow's default of 1 MiB refuses valid images.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_METADATA = 16 * 2**20

# A file with one of these suffixes counts as an image, even if its format is not supported.
IMAGE = re.compile(
    r"\.(a?png|jpe?g|jpe|jfif|webp|bmp|dib|tiff?|gif|hei[cf]|avif|jp2|jxl|p[bgpn]m|tga|ico|svg|psd|exr|dcm|dng)",
    re.IGNORECASE,
)
SPLITS = re.compile(r"train(ing)?|val(id(ation)?)?|test(ing)?|images", re.IGNORECASE)
MANY = 200  # More classes than this number are probably a mistake of the user, so a note reports them.

EMPTY = "is empty"
UNKNOWN = "is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one"
DEAD_LINK = "is a link to nothing"
LINK_LOOP = "is a link that leads back to itself"
FOLDER_LOOP = "is a link to a folder that contains it"
READ_ALREADY = "leads to a folder that was already read"
SPECIAL = "is neither a file nor a folder"
# With these reasons, it remains unknown whether the left-out file was an image.
NO_CONTENT = {EMPTY, UNKNOWN, DEAD_LINK, LINK_LOOP, FOLDER_LOOP, READ_ALREADY, SPECIAL}


@dataclass(frozen=True)
class LeftOut:
    """File, folder or link that is left out of the data set.

    Attributes:
        path: Path relative to the user's folder, as `shown` writes it.
        reason: Rest of a sentence that begins with the path, such as "is truncated".
    """

    path: str
    reason: str

    @property
    def broken(self) -> bool:
        """Whether the file counts as a broken image: `IMAGE` matches its suffix, or `reason` is not in `NO_CONTENT`."""
        return bool(IMAGE.fullmatch(PurePath(self.path).suffix)) or self.reason not in NO_CONTENT


@dataclass
class Depth:
    """Bit depth of 16-bit images: the setting `bits`, and the brightest value of each 16-bit image read so far.

    Attributes:
        bits: Number of bits that the values use, from 8 to 16. Values of 2^bits − 1 and above become white.
        grey: For each 16-bit image with one channel, the brightest value, from 0 to 65535.
        channels: For each 16-bit image with several channels, an upper bound of the brightest value, because Pillow
            reads only the upper 8 bits.
    """

    bits: int = FULL
    grey: list[int] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of 16-bit images that were read so far."""
        return len(self.grey) + len(self.channels)

    @property
    def certainly(self) -> bool:
        """Whether all values are below 2^14. If so, 16 is almost certainly the wrong setting for `bits`."""
        return max([*self.grey, *self.channels], default=0) < 2**14

    def too_dark(self, where: str, key: str) -> str | None:
        """Return a message if `bits` is 16 but every value of the 16-bit images is below 2^15, else None.

        Args:
            where: Name of the folder in the message.
            key: Name of the setting `bits` in the message.
        """
        values = [*self.grey, *self.channels]
        if self.bits < FULL or not values or max(values) >= 2**15:
            return None
        remedy = (
            f"set {key} to {max(BYTE, max(self.grey).bit_length())}, the bits that the values use"
            if self.grey
            else "only the upper 8 of 16 bits per colour channel can be read, so save the images with 8 bits"
        )
        dark = (
            f"every 16-bit image{where}, {len(values)} in all, is dark: the brightest value is {max(values)} of 65535"
        )
        return f"{dark}; {remedy}"


@dataclass(frozen=True)
class Folder:
    """Images of a folder, and the files that were left out.

    Attributes:
        images: uint8 (N, C, H, W), in the order of the files' paths. The images are in a temporary file, which is
            deleted with the array.
        labels: Class of each image as an index into `classes`, (N,).
        classes: Sorted names of the classes. "" is the class of images that are in no subfolder.
        counts: Number of images of each class, in the order of `classes`.
        left_out: Files, folders and links that were left out, in the order of their paths.
        notes: Sentences about facts that may surprise the user.
    """

    images: Bytes
    labels: NDArray[np.unsignedinteger[Any]]
    classes: list[str]
    counts: dict[str, int]
    left_out: list[LeftOut]
    notes: list[str]


class UnusableError(Exception):
    """Error for an image that cannot be used. Its message is the reason."""


def read(
    root: Path, image: Shape, *, fit: Fit, bits: int = FULL, key: str = "bits", scratch: Path, workers: int
) -> Folder:
    """Read all images below `root`, and convert them to one shape.

    The content of a file decides whether the file is an image; the suffix does not matter. At most `workers` images are
    in memory in their original size at a time.

    Args:
        root: Folder of the images.
        image: Shape (C, H, W) of the resulting images. C is 1 (grey) or 3 (RGB); H and W are in pixels.
        fit: How an image of another size or aspect ratio gets the shape `image`: see `Fit`.
        bits: Number of bits that the values of 16-bit files use, from 8 to 16. Values of 2^bits − 1 and above become
            white.
        key: Name of the setting `bits` in messages.
        scratch: Folder for a temporary file, on a disk with enough space for all resulting images.
        workers: Number of threads that decode images. The number does not change the result.

    Returns:
        The images with their classes, the files that were left out, and notes for the user.

    Raises:
        UserError: `root` is not a folder or has no readable image. The error is also raised if `bits` is 16, at least
            half of the images have 16 bits, and all values of the 16-bit images are below 2^14.
    """
    files, left_out = listed(root)
    used: list[str] = []
    depth = Depth(bits)

    def rows() -> Iterator[Bytes]:
        results = _in_order(lambda file: decoded(root / file, image, fit, depth), files, workers)
        for file, result in zip(files, counted(results, len(files)), strict=True):
            if isinstance(result, str):
                left_out.append(LeftOut(shown(file), result))
            else:
                used.append(shown(file))
                yield result

    # All threads share Python's warning filters, so the main thread sets the filter once.
    with part("images read"), warnings.catch_warnings(action="ignore"):
        images = _on_disk(rows(), image, scratch)
    where = shown(str(root))
    if not len(images):
        first = f", such as {left_out[0].path}, which {left_out[0].reason}" if left_out else ""
        msg = f"no image could be read from the folder {where}: {len(left_out)} files were left out{first}"
        raise UserError(msg)
    dark = depth.too_dark(f" in {where}", key)
    if dark and depth.certainly and 2 * depth.count >= len(used):
        raise UserError(dark)
    names, notes = _classes(used)
    notes += [dark] if dark else []
    counts = dict(sorted(Counter(names).items()))
    index = {name: label for label, name in enumerate(counts)}
    labels = np.array([index[name] for name in names], np.min_scalar_type(len(counts) - 1))
    notes += [*_odd_classes(counts), *_odd_depths(depth)]
    return Folder(images, labels, list(counts), counts, sorted(left_out, key=lambda each: each.path), notes)


def _classes(files: list[str]) -> tuple[list[str], list[str]]:
    """Return the class of each image, taken from the path of its file, and notes about unusual folders."""
    folders = [file.split("/")[:-1] for file in files]
    notes = []
    while True:
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(min(folders), max(folders), strict=False))
        around = [name for name, _ in pairs]
        if around and len(around) < min(map(len, folders)):
            notes.append(f"all images are in {'/'.join(around)}: its subfolders are the classes")
            folders = [each[len(around) :] for each in folders]
        parts = sorted({each[0] for each in folders if each})
        split = [part for part in parts if SPLITS.fullmatch(part)]
        if len(split) > 1 and split == parts:
            notes.append(f"the folder's own split, {', '.join(split)}, is not used: the images are split at random")
            folders = [each[1:] for each in folders]
            continue
        if len(split) > 1:
            notes.append(f"{', '.join(split)} count as classes, because there are other folders beside them")
        return [each[0] if each else "" for each in folders], notes


def _odd_classes(counts: dict[str, int]) -> Iterator[str]:
    """Yield notes about classes with one image, and about a large number of classes."""
    single = [name or "the class outside of subfolders" for name, count in counts.items() if count == 1]
    if len(counts) > 1 and len(single) == len(counts):
        yield f"each of the {len(counts)} classes has one image: metrics of classes need several images of each class"
    elif single and len(counts) > 1:
        yield f"classes with one image: {len(single)} of {len(counts)}, such as {single[0]}"
    if len(counts) > MANY:
        yield f"there are {len(counts)} classes: every first-level subfolder is a class"


def _odd_depths(depth: Depth) -> Iterator[str]:
    """Yield notes about 16-bit images of which some values or bits are lost."""
    above = [value for value in depth.grey if value >= 2**depth.bits]
    if above:
        yield f"values above {2**depth.bits - 1} are white: up to {max(above)} in {len(above)} of the 16-bit images"
    if depth.channels:
        yield f"only the upper 8 of 16 bits per colour channel are read, in {len(depth.channels)} of the images"


def listed(root: Path) -> tuple[list[str], list[LeftOut]]:
    """Return the sorted paths of all files below `root`, and the files, folders and links that cannot be read.

    The paths are relative to `root`. Links are followed, also to folders outside of `root`. Each folder is read only
    once. If a folder is below `root` and a link leads to it, too, the files have the path without the link.

    Raises:
        UserError: `root` is not a folder.
    """
    _check_folder(root)
    files, left_out = list[str](), list[LeftOut]()
    entered = set[str]()
    start = os.path.realpath(root)
    folders, links = [""], deque[str]()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        place = os.path.realpath(root / folder)
        around = {start, os.path.realpath((root / folder).parent)} if folder else set[str]()
        if any(Path(each).is_relative_to(place) for each in around):
            left_out.append(LeftOut(shown(folder), FOLDER_LOOP))
            continue
        if place in entered:
            left_out.append(LeftOut(shown(folder), READ_ALREADY))
            continue
        entered.add(place)
        try:
            with os.scandir(root / folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            left_out.append(LeftOut(shown(folder) or ".", f"cannot be read ({error.strerror})"))
            continue
        for entry in found:
            path = f"{folder}/{entry.name}" if folder else entry.name
            kind = None if LITTER.fullmatch(entry.name) else _kind(entry)
            if kind == "file":
                files.append(path)
            elif kind == "folder":
                (links if entry.is_symlink() else folders).append(path)
            elif kind is not None:
                left_out.append(LeftOut(shown(path), kind))
    return sorted(files), left_out


def _check_folder(root: Path) -> None:
    try:
        what = None if stat.S_ISDIR(root.stat().st_mode) else "is a file, not a folder"
    except (FileNotFoundError, ValueError):  # ValueError: the name has a zero byte
        what = DEAD_LINK if root.is_symlink() else "does not exist"
    except OSError as error:
        what = LINK_LOOP if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
    if what:
        msg = f"the folder of images {shown(str(root))} {what}"
        raise UserError(msg)


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "file" or "folder", or the reason why the entry is left out. A link has the kind of its target."""
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return LINK_LOOP
        gone = isinstance(error, FileNotFoundError) and entry.is_symlink()
        return DEAD_LINK if gone else f"cannot be read ({error.strerror})"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else SPECIAL


def shown(path: str) -> str:
    r"""Return `path` as one line of text. Control characters, and bytes that are not UTF-8, become \xNN."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _in_order(work: Callable[[str], Bytes | str], files: Iterable[str], workers: int) -> Iterator[Bytes | str]:
    """Call `work` for each file in `workers` threads, and yield the results in the order of `files`.

    At most `AHEAD` results per thread wait in memory for an earlier, slower result.
    """
    waiting: deque[Future[Bytes | str]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for file in files:
            waiting.append(pool.submit(work, file))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _on_disk(rows: Iterator[Bytes], image: Shape, scratch: Path) -> Bytes:
    """Write images to a temporary file in `scratch`, and return the file as one array, (N, C, H, W).

    The array stays on the disk, so the images may need more space than the memory has.
    """
    count = 0
    with tempfile.TemporaryFile(dir=scratch) as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007 - the last value is used below
            file.write(row.data)
        file.flush()
        return np.memmap(file, np.uint8, "r", shape=(count, *image)) if count else np.empty((0, *image), np.uint8)


# --- one image -------------------------------------------------------------------------------------------------------


def decoded(image: Path | bytes, shape: Shape, fit: Fit, depth: Depth) -> Bytes | str:
    """Decode and convert one image.

    Args:
        image: Path or content of the file.
        shape: Shape (C, H, W) of the result.
        fit: How an image of another size or aspect ratio gets this shape: see `Fit`.
        depth: Setting for 16-bit images. If the image has 16 bits, its brightest value is added to `depth`.

    Returns:
        The image, uint8 (C, H, W), or the reason why the file cannot be used.
    """
    channels, height, width = shape
    try:
        # From a path, Pillow would map the file into memory. If the file then shrank, the process would be killed.
        with io.BytesIO(image) if isinstance(image, bytes) else image.open("rb") as file:
            pixels = np.asarray(_opened(file, shape, fit, depth).convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # noqa: BLE001 - decoders raise all kinds of errors on damaged files
        return _reason(error)
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def _opened(file: BinaryIO, shape: Shape, fit: Fit, depth: Depth) -> Image.Image:
    """Decode the image in `file`, and resize the image to the height and width of `shape`."""
    channels, height, width = shape
    if not file.read(1):
        raise UnusableError(EMPTY)
    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if fit == "exact" and image.size != (width, height):
            msg = f"is {image.width}×{image.height} pixels, the model takes {width}×{height}"
            raise UnusableError(msg)
        side = int(SPARE * max(height, width))
        image.draft("L" if channels == 1 else "RGB", (side, side))  # decodes a JPEG file at a smaller size
        # `wide` means several channels of 16 bits. Before decoding, `tile` says how the file stores the pixels.
        wide = not image.mode.startswith("I") and any(";16" in str(tile.args) for tile in image.tile)
        tags = getattr(image, "tag_v2", {})  # the tags of a TIFF file
        if not wide and len(bits := tags.get(TiffImagePlugin.BITSPERSAMPLE, ())) > 1 and max(bits) > BYTE:
            msg = "stores its 16-bit channels one after the other, which cannot be read"  # Pillow reads only 8 bits
            raise UnusableError(msg)
        if wide and depth.bits < FULL:
            msg = "has 16 bits per channel, of which only the upper 8 can be read: save it with 8 bits"
            raise UnusableError(msg)
        image.load()
        if wide:
            depth.channels.append(256 * int(np.max(image.convert("RGB").getextrema())) + 255)
        with contextlib.suppress(Exception):  # an image with invalid EXIF data stays as it is
            ImageOps.exif_transpose(image, in_place=True)
        return _fitted(_eight_bits(image, depth), (width, height), fit)


def _reason(error: Exception) -> str:
    """Turn the error of a decoder into a `reason` of `LeftOut`."""
    if isinstance(error, UnusableError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return UNKNOWN
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than the {MAX_PIXELS / 1e6:g} megapixels allowed"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    if "MAX_TEXT" in str(error):
        return f"has more than the {MAX_METADATA >> 20} MiB of text or colour profile allowed"
    said = " ".join(str(error).split()) or type(error).__name__
    return "is truncated" if "truncated" in said.lower() else f"is damaged ({said})"


@functools.cache
def _to_eight(bits: int) -> list[int]:
    """Return the nearest 8-bit value of each 16-bit value. Values of 2^bits − 1 and above become white, 255."""
    white = 2**bits - 1
    return [min((255 * value + white // 2) // white, 255) for value in range(2**16)]


def _eight_bits(image: Image.Image, depth: Depth) -> Image.Image:
    """Convert the image to a mode of 8 bits per channel: L, RGB, or RGBA if the image has transparency."""
    if image.mode.startswith("I;16"):
        grey = image.convert("I")
        depth.grey.append(int(np.max(grey.getextrema())))
        eight = grey.point(_to_eight(depth.bits), "L")
        tags = getattr(image, "tag_v2", {})
        white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0  # Pillow inverts only 8-bit images
        return ImageOps.invert(eight) if white_is_zero else eight
    if image.mode not in {"1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "CMYK", "YCbCr"}:
        msg = f"has pixels of a kind that is not supported ({image.mode})"
        raise UnusableError(msg)
    return image.convert("RGBA" if image.has_transparency_data else "L" if image.mode in {"1", "L"} else "RGB")


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """Resize the image to `size`, (width, height), as `fit` says. The result has mode L or RGB.

    Pillow's `ImageOps.fit` and `ImageOps.pad` are not used, because they lack the argument `reducing_gap`. Without
    `reducing_gap`, shrinking an image of 12 megapixels takes eight times as long.
    """
    factors = size[0] / image.width, size[1] / image.height
    if fit == "pad":
        inner = max(1, round(image.width * min(factors))), max(1, round(image.height * min(factors)))
        small = _resized(image, inner, (0, 0, *image.size))
        padded = Image.new(small.mode, size)
        padded.paste(small, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
        return padded
    if fit == "stretch":
        return _resized(image, size, (0, 0, *image.size))
    box_width, box_height = size[0] / max(factors), size[1] / max(factors)
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    # Rounding may put an edge slightly outside of the image. Pillow would refuse such a box.
    right, bottom = min(left + box_width, image.width), min(top + box_height, image.height)
    return _resized(image, size, (max(left, 0), max(top, 0), right, bottom))


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """Cut `box` (left, top, right, bottom) out of the image, and resize the cut-out to `size`, (width, height).

    Transparent pixels become white.
    """
    # Pillow weights colours by their opacity. So white can be added to the small image, which is faster.
    small = image.resize(size, Resampling.LANCZOS, box, reducing_gap=SPARE)
    if small.mode != "RGBA":
        return small
    return Image.alpha_composite(Image.new("RGBA", size, "white"), small).convert("RGB")
