"""A user's own folder of images as a data set: uint8 images of one size, in the order of the files' paths.

Classes are the folder's first-level subfolders; a folder around all of them, and folders named as a split's parts,
are none. Links are followed. What cannot be read is left out and told, with the reason.

Pixels: transparency is put on white. 16 bits are scaled to 8, from as many as the files' values fill; of 16 bits per
colour channel Pillow reads the upper 8. Pixels of 32 bits, whose range no file says, are not supported. Colour profiles
are ignored. Of several frames or pages the first one counts. Images are turned upright as EXIF says.

Of a damaged TIFF file the library that decodes it, libtiff, writes a line to the standard error, past Python.
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

# "crop": the shorter side to size, then the centre; "pad": the longer side to size, then black around it;
# "stretch": both sides to size, whatever the aspect; "exact": an image of another size cannot be used.
Fit: TypeAlias = Literal["crop", "pad", "stretch", "exact"]

PLUGINS = (WebPImagePlugin, TiffImagePlugin)  # to import them registers them; the others Pillow imports itself
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
# Of one image, which takes up to 17 bytes of memory per pixel while it is decoded. Pillow itself refuses 179 million.
MAX_PIXELS = 100_000_000
AHEAD = 16  # images per worker that wait, at their final size, for a slower one before them
BYTE, FULL = 8, 16  # bits
SPARE = 2.0  # a JPEG is decoded at no less than this times the final size, and a box filter stops there too
# Of a PNG's text or colour profile, unpacked; Pillow's own limit of 1 MiB keeps healthy images out.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_METADATA = 16 * 2**20

# A file with such a name was meant to be an image, also if it is of a format that is not read.
IMAGE = re.compile(
    r"\.(a?png|jpe?g|jpe|jfif|webp|bmp|dib|tiff?|gif|hei[cf]|avif|jp2|jxl|p[bgpn]m|tga|ico|svg|psd|exr|dcm|dng)",
    re.IGNORECASE,
)
SPLITS = re.compile(r"train(ing)?|val(id(ation)?)?|test(ing)?|images", re.IGNORECASE)
MANY = 200  # classes: more of them are seldom meant

EMPTY = "is empty"
UNKNOWN = "is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one"
DEAD_LINK = "is a link to nothing"
LINK_LOOP = "is a link that leads back to itself"
FOLDER_LOOP = "is a link to a folder that it lies in"
READ_ALREADY = "leads to a folder that is read already"
SPECIAL = "is neither a file nor a folder"
NO_CONTENT = {EMPTY, UNKNOWN, DEAD_LINK, LINK_LOOP, FOLDER_LOOP, READ_ALREADY, SPECIAL}  # of an image, that is


@dataclass(frozen=True)
class LeftOut:
    """A file that is no part of the data set."""

    path: str  # relative to the folder, with "/"; what is not UTF-8 or no character is written \xNN
    reason: str  # completes a sentence that begins with the path, e.g. "is truncated"

    @property
    def broken(self) -> bool:
        """Whether an image is lost: its name or its content is that of one, or nobody could look."""
        return bool(IMAGE.fullmatch(PurePath(self.path).suffix)) or self.reason not in NO_CONTENT


@dataclass
class Depth:
    """How images of 16 bits are read, and the brightest value, of 65535, of each that was."""

    bits: int = FULL  # 8 … 16, those that the files' values fill: 2^bits − 1 is white, and so is all above
    grey: list[int] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)  # of several channels: of each 16 bits the upper 8 are known

    @property
    def count(self) -> int:
        """How many images of 16 bits there were."""
        return len(self.grey) + len(self.channels)

    @property
    def certainly(self) -> bool:
        """Whether the values are those of a device of at most 14 bits, and not of a dark picture."""
        return max([*self.grey, *self.channels], default=0) < 2**14

    def too_dark(self, where: str, key: str) -> str | None:
        """A sentence, if `bits` is 16 and no image is half as bright as that allows; `key` is what a user can set."""
        values = [*self.grey, *self.channels]
        if self.bits < FULL or not values or max(values) >= 2**15:
            return None
        remedy = (
            f"set {key} to {max(BYTE, max(self.grey).bit_length())}, the bits that it fills"
            if self.grey
            else "of a colour channel's 16 bits the upper 8 alone can be read, so save them with 8 bits"
        )
        dark = (
            f"every 16-bit image{where}, {len(values)} in all, is dark: the brightest value is {max(values)} of 65535"
        )
        return f"{dark}; {remedy}"


@dataclass(frozen=True)
class Folder:
    """What was read of a folder."""

    images: Bytes  # (N, C, H, W), in the order of the files' paths; mapped from a temporary file that goes with it
    labels: NDArray[np.unsignedinteger[Any]]  # (N,): the class of each image, an index into `classes`
    classes: list[str]  # sorted names of the first-level subfolders with images; "" for images outside of any
    counts: dict[str, int]  # images of each class, in the order of `classes`
    left_out: list[LeftOut]  # in the order of the paths
    notes: list[str]  # what the user may not expect, a sentence each


class UnusableError(Exception):
    """The image cannot be used; the message is the reason."""


def read(
    root: Path, image: Shape, *, fit: Fit, bits: int = FULL, key: str = "bits", scratch: Path, workers: int
) -> Folder:
    """Make every image below `root` one of shape `image`.

    Every file of `listed` is looked at, whatever its name. The result is the same for any number of workers. Memory
    holds `workers` decoded images, not all.

    Args:
        root: the folder.
        image: (C, H, W) in pixels; C is 1 (grey) or 3 (RGB).
        fit: how an image of another aspect comes to H×W.
        bits: 8 … 16, of a 16-bit file those that its values fill: 2^bits − 1 is white, and what is above it.
        key: what a user sets to change `bits`, for messages.
        scratch: a folder on a disk with room for all of the images, where nothing is left behind.
        workers: threads that decode.

    Raises:
        UserError: `root` is no folder, or holds no image that can be read; or `bits` is 16, most images have 16 bits,
            and no value of them fills more than 14.
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

    # The filters are set here, because a thread that changes them changes those of all.
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
    """The class of each image, by its path, and what the user may not expect of them."""
    folders = [file.split("/")[:-1] for file in files]
    notes = []
    while True:
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(min(folders), max(folders), strict=False))
        around = [name for name, _ in pairs]
        if around and len(around) < min(map(len, folders)):
            notes.append(f"all images lie in {'/'.join(around)}: its subfolders are the classes")
            folders = [each[len(around) :] for each in folders]
        parts = sorted({each[0] for each in folders if each})
        split = [part for part in parts if SPLITS.fullmatch(part)]
        if len(split) > 1 and split == parts:
            notes.append(f"the folder's own split, {', '.join(split)}, is not used: its images are split anew")
            folders = [each[1:] for each in folders]
            continue
        if len(split) > 1:
            notes.append(f"{', '.join(split)} are taken for classes, because there are other folders beside them")
        return [each[0] if each else "" for each in folders], notes


def _odd_classes(counts: dict[str, int]) -> Iterator[str]:
    """What the user may not expect of the classes' sizes."""
    single = [name or "that outside of subfolders" for name, count in counts.items() if count == 1]
    if len(counts) > 1 and len(single) == len(counts):
        yield f"each of the {len(counts)} classes has one image: metrics of classes need several"
    elif single and len(counts) > 1:
        yield f"classes with one image: {len(single)} of {len(counts)}, such as {single[0]}"
    if len(counts) > MANY:
        yield f"there are {len(counts)} classes: every first-level subfolder is one"


def _odd_depths(depth: Depth) -> Iterator[str]:
    """What the user may not expect of images of 16 bits."""
    above = [value for value in depth.grey if value >= 2**depth.bits]
    if above:
        yield f"values above {2**depth.bits - 1} are white: up to {max(above)} in {len(above)} of the 16-bit images"
    if depth.channels:
        yield f"of 16 bits per colour channel the upper 8 are read, in {len(depth.channels)} of the images"


def listed(root: Path) -> tuple[list[str], list[LeftOut]]:
    """The paths of the files to look at, relative and sorted, and what of the folder cannot be looked at.

    Links are followed, wherever they lead, but into every folder once: by its own path where that is below `root`.

    Raises:
        UserError: `root` is no folder.
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
    except (FileNotFoundError, ValueError):  # a name with a zero byte
        what = DEAD_LINK if root.is_symlink() else "does not exist"
    except OSError as error:
        what = LINK_LOOP if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
    if what:
        msg = f"the folder of images {shown(str(root))} {what}"
        raise UserError(msg)


def _kind(entry: os.DirEntry[str]) -> str:
    """Whether it is, or leads to, a "file" or a "folder"; or the reason why it is neither."""
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return LINK_LOOP
        gone = isinstance(error, FileNotFoundError) and entry.is_symlink()
        return DEAD_LINK if gone else f"cannot be read ({error.strerror})"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else SPECIAL


def shown(path: str) -> str:
    r"""The path as one line of text, where what is not UTF-8, and control characters, are written \xNN."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _in_order(work: Callable[[str], Bytes | str], files: Iterable[str], workers: int) -> Iterator[Bytes | str]:
    """The results of `work` in the order of `files`, no more than `AHEAD` per worker waiting."""
    waiting: deque[Future[Bytes | str]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for file in files:
            waiting.append(pool.submit(work, file))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _on_disk(rows: Iterator[Bytes], image: Shape, scratch: Path) -> Bytes:
    """The rows as one array, which need not fit into memory."""
    count = 0
    with tempfile.TemporaryFile(dir=scratch) as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007 - how many there were
            file.write(row.data)
        file.flush()
        return np.memmap(file, np.uint8, "r", shape=(count, *image)) if count else np.empty((0, *image), np.uint8)


# --- one image -------------------------------------------------------------------------------------------------------


def decoded(image: Path | bytes, shape: Shape, fit: Fit, depth: Depth) -> Bytes | str:
    """The image in a file, or in what was read of one, uint8 of `shape`, (C, H, W); or the reason why there is none."""
    channels, height, width = shape
    try:
        # Pillow is given a file, not a path: a mapped file that shrinks meanwhile would end the process.
        with io.BytesIO(image) if isinstance(image, bytes) else image.open("rb") as file:
            pixels = np.asarray(_opened(file, shape, fit, depth).convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # noqa: BLE001 - on strange bytes decoders raise whatever they like
        return _reason(error)
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def _opened(file: BinaryIO, shape: Shape, fit: Fit, depth: Depth) -> Image.Image:
    """The image at its final size."""
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
        image.draft("L" if channels == 1 else "RGB", (side, side))  # of a JPEG alone
        # `tile` says how the file has its pixels until they are decoded.
        wide = not image.mode.startswith("I") and any(";16" in str(tile.args) for tile in image.tile)
        tags = getattr(image, "tag_v2", {})  # of a TIFF
        if not wide and len(bits := tags.get(TiffImagePlugin.BITSPERSAMPLE, ())) > 1 and max(bits) > BYTE:
            msg = "has its 16-bit channels one after the other, which cannot be read"  # Pillow takes them for 8 bits
            raise UnusableError(msg)
        if wide and depth.bits < FULL:
            msg = "has 16 bits per channel, of which the upper 8 alone can be read: save it with 8 bits"
            raise UnusableError(msg)
        image.load()
        if wide:
            depth.channels.append(256 * int(np.max(image.convert("RGB").getextrema())) + 255)
        with contextlib.suppress(Exception):  # what is wrong in EXIF data harms no pixel
            ImageOps.exif_transpose(image, in_place=True)
        return _fitted(_eight_bits(image, depth), (width, height), fit)


def _reason(error: Exception) -> str:
    """Why an image is left out, as `LeftOut` has it."""
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
    """For each value of 16 bits, of which `bits` are used, the nearest of 8."""
    white = 2**bits - 1
    return [min((255 * value + white // 2) // white, 255) for value in range(2**16)]


def _eight_bits(image: Image.Image, depth: Depth) -> Image.Image:
    """The image in a mode that can be resized: L, RGB, or RGBA where it has transparency."""
    if image.mode.startswith("I;16"):
        grey = image.convert("I")
        depth.grey.append(int(np.max(grey.getextrema())))
        eight = grey.point(_to_eight(depth.bits), "L")
        tags = getattr(image, "tag_v2", {})
        white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0  # Pillow sees to that of 8 bits only
        return ImageOps.invert(eight) if white_is_zero else eight
    if image.mode not in {"1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "CMYK", "YCbCr"}:
        msg = f"has pixels of a kind that is not supported ({image.mode})"
        raise UnusableError(msg)
    return image.convert("RGBA" if image.has_transparency_data else "L" if image.mode in {"1", "L"} else "RGB")


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """The image at `size`, (width, height); mode L or RGB.

    `ImageOps.fit` and `pad` know no `reducing_gap`, without which 12 megapixels take eight times as long to shrink, and
    give other pixels: by up to 9 of 255 for `fit`, by all of them where `pad` puts an odd rest on the other side.
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
    # Rounding may put the far edge a hair outside, which Pillow refuses.
    right, bottom = min(left + box_width, image.width), min(top + box_height, image.height)
    return _resized(image, size, (max(left, 0), max(top, 0), right, bottom))


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """The part `box` (left, top, right, bottom) of the image at `size`, put on white where it is transparent."""
    # To put it on white when it is small costs less, and is the same: Pillow weights colours by their opacity.
    small = image.resize(size, Resampling.LANCZOS, box, reducing_gap=SPARE)
    if small.mode != "RGBA":
        return small
    return Image.alpha_composite(Image.new("RGBA", size, "white"), small).convert("RGB")
