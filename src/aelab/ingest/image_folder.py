"""A user's own folder of images as a data set: uint8 images of one size, in the order of the files' paths.

Classes are the folder's first-level subfolders. What cannot be read is left out and told, with the reason.

Pixels: transparency is put on white. 16 bits are scaled to 8; pixels of 32 bits, whose range no file says, are not
supported. Colour profiles are ignored. Of several frames or pages the first one counts. Images are turned upright as
EXIF says.

Of a damaged TIFF file the library that decodes it, libtiff, writes a line to the standard error, past Python.
"""

import contextlib
import io
import os
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin
from PIL.Image import Resampling
from tqdm.auto import tqdm

from aelab.core.errors import UserError
from aelab.data.datasets import Bytes, Shape

# "crop": the shorter side to size, then the centre; "pad": the longer side to size, then black around it;
# "stretch": both sides to size, whatever the aspect; "exact": an image of another size cannot be used.
Fit: TypeAlias = Literal["crop", "pad", "stretch", "exact"]

PLUGINS = (WebPImagePlugin, TiffImagePlugin)  # to import them registers them; the others Pillow imports itself
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
# Of one image, which takes up to 17 bytes of memory per pixel while it is decoded. Pillow itself refuses 179 million.
MAX_PIXELS = 100_000_000
AHEAD = 16  # images per worker that wait, at their final size, for a slower one before them
SPARE = 2.0  # a JPEG is decoded at no less than this times the final size, and a box filter stops there too
SIXTEEN_TO_EIGHT = [(value + 128) // 257 for value in range(2**16)]


@dataclass(frozen=True)
class LeftOut:
    """A file that is no part of the data set."""

    path: str  # relative to the folder, with "/"; bytes that are not UTF-8 as \xNN
    reason: str  # completes a sentence that begins with the path, e.g. "is truncated"


@dataclass(frozen=True)
class Folder:
    """What was read of a folder."""

    images: Bytes  # (N, C, H, W), in the order of the files' paths; mapped from a temporary file that goes with it
    labels: NDArray[np.unsignedinteger[Any]]  # (N,): the class of each image, an index into `classes`
    classes: list[str]  # sorted names of the first-level subfolders with images; "" for images outside of any
    left_out: list[LeftOut]  # in the order of the paths


class UnusableError(Exception):
    """The image cannot be used; the message is the reason."""


def read(root: Path, image: Shape, *, fit: Fit, scratch: Path, workers: int) -> Folder:
    """Make every image below `root` one of shape `image`.

    Every regular file is looked at, whatever its name, but for those whose name or folder's name begins with ".". The
    result is the same for any number of workers. Memory holds `workers` decoded images, not all.

    Args:
        root: the folder.
        image: (C, H, W) in pixels; C is 1 (grey) or 3 (RGB).
        fit: how an image of another aspect comes to H×W.
        scratch: a folder on a disk with room for all of the images, where nothing is left behind.
        workers: threads that decode.

    Raises:
        UserError: `root` is no folder, or holds no image that can be read.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        msg = f"the folder of images {root} {what}"
        raise UserError(msg)
    files, left_out = listed(root)
    names: list[str] = []

    def rows() -> Iterator[Bytes]:
        results = _in_order(lambda file: decoded(root / file, image, fit), files, workers)
        # disable=None: no bar where stderr is no terminal
        for file, result in zip(files, tqdm(results, "images", len(files), disable=None, leave=False), strict=True):
            if isinstance(result, str):
                left_out.append(LeftOut(shown(file), result))
            else:
                names.append(shown(file).partition("/")[0] if "/" in file else "")
                yield result

    with warnings.catch_warnings():  # here, because a thread that changes the filters changes those of all
        warnings.simplefilter("ignore")
        images = _on_disk(rows(), image, scratch)
    if not len(images):
        first = f", such as {left_out[0].path}, which {left_out[0].reason}" if left_out else ""
        msg = f"no image could be read from the folder {root}: {len(left_out)} files were left out{first}"
        raise UserError(msg)
    classes = sorted(set(names))
    index = {name: label for label, name in enumerate(classes)}
    labels = np.array([index[name] for name in names], np.min_scalar_type(len(classes) - 1))
    return Folder(images, labels, classes, sorted(left_out, key=lambda each: each.path))


def listed(root: Path) -> tuple[list[str], list[LeftOut]]:
    """The paths of the files to look at, relative and sorted, and the links and folders that are not looked at."""
    inside = os.path.realpath(root)
    files, left_out = [], []

    def leave_out(path: str, reason: str) -> None:
        left_out.append(LeftOut(shown(Path(os.path.relpath(path, root)).as_posix()), reason))

    def unreadable(error: OSError) -> None:
        leave_out(error.filename, f"cannot be read ({error.strerror})")

    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in (*subfolders, *names):
            path = Path(folder, name)
            known = path.is_file() and Path(os.path.realpath(path)).is_relative_to(inside)
            if name.startswith("."):
                continue
            if path.is_symlink() and not known:
                leave_out(str(path), "is a link to no file of the folder")
            elif known:
                files.append(path.relative_to(root).as_posix())
    return sorted(files), left_out


def shown(path: str) -> str:
    """The path as text that can be printed and stored, also where it is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


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


def decoded(image: Path | bytes, shape: Shape, fit: Fit) -> Bytes | str:
    """The image in a file, or in what was read of one, uint8 of `shape`, (C, H, W); or the reason why there is none."""
    channels, height, width = shape
    try:
        # Pillow is given a file, not a path: a mapped file that shrinks meanwhile would end the process.
        with io.BytesIO(image) if isinstance(image, bytes) else image.open("rb") as file:
            pixels = np.asarray(_opened(file, shape, fit).convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # noqa: BLE001 - on strange bytes decoders raise whatever they like
        return _reason(error)
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def _opened(file: BinaryIO, shape: Shape, fit: Fit) -> Image.Image:
    """The image at its final size."""
    channels, height, width = shape
    if not file.read(1):
        msg = "is empty"
        raise UnusableError(msg)
    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if fit == "exact" and image.size != (width, height):
            msg = f"is {image.width}×{image.height} pixels, the model takes {width}×{height}"
            raise UnusableError(msg)
        side = int(SPARE * max(height, width))
        image.draft("L" if channels == 1 else "RGB", (side, side))  # of a JPEG alone
        image.load()
        with contextlib.suppress(Exception):  # what is wrong in EXIF data harms no pixel
            ImageOps.exif_transpose(image, in_place=True)
        return _fitted(_eight_bits(image), (width, height), fit)


def _reason(error: Exception) -> str:
    """Why an image is left out, as `LeftOut` has it."""
    if isinstance(error, UnusableError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than the {MAX_PIXELS / 1e6:g} megapixels allowed"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    said = " ".join(str(error).split()) or type(error).__name__
    return "is truncated" if "truncated" in said.lower() else f"is damaged ({said})"


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image in a mode that can be resized: L, RGB, or RGBA where it has transparency."""
    if image.mode.startswith("I;16"):
        return image.convert("I").point(SIXTEEN_TO_EIGHT, "L")
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
