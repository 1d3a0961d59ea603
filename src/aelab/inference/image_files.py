"""Images that a user hands to a model, and what comes back: files, folders of them, or bytes; written as PNG.

Images of any kind and size are read as `image_folder.py` does: turned upright, grey or coloured as the model wants
them, and brought to its size. What is written has been named by the user, and replaces nothing without being told so.
"""

import io
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from aelab.core.errors import UserError
from aelab.data.datasets import Bytes
from aelab.ingest import image_folder
from aelab.ingest.image_folder import LeftOut

PNG, PIPE = ".png", "-"


@dataclass(frozen=True)
class Job:
    """An image to read, and where what becomes of it is to be written."""

    name: str  # for messages and tables
    source: Path | bytes
    target: Path | None  # None: not to a file


def jobs(source: Path, out: Path | None) -> tuple[list[Job], list[LeftOut]]:
    """The files of a folder that may be images, and those that are not looked at.

    Each becomes a PNG of the same name in `out`, if that is given; a.jpg becomes a.jpg.png where there is an a.png too.

    Raises:
        UserError: there is nothing in it; `out` is a file, or lies in `source`, where it would be read the next time.
    """
    names, left_out = image_folder.listed(source)
    if not names:
        msg = f"the folder {source} holds no file"
        raise UserError(msg)
    if out is None:
        return [Job(image_folder.shown(name), source / name, None) for name in names], left_out
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file: what becomes of the folder {source} needs a folder"
        raise UserError(msg)
    if out.resolve().is_relative_to(source.resolve()):
        msg = f"{out} lies in {source}, whose images would be mixed with it: name another folder"
        raise UserError(msg)
    short = [Path(name).with_suffix(PNG) for name in names]
    several = Counter(short)
    targets = [Path(name + PNG) if several[each] > 1 else each for name, each in zip(names, short, strict=True)]
    pairs = zip(names, targets, strict=True)
    return [Job(image_folder.shown(name), source / name, out / target) for name, target in pairs], left_out


def job(source: str, out: Path | None = None) -> Job:
    """One image, `PIPE` being the standard input, which is read at once; in a folder it becomes a PNG of its name.

    Raises:
        UserError: `out` is no path of a PNG.
    """
    name = "stdin" if source == PIPE else source
    if out is not None and out.is_dir():
        out /= f"{Path(name).stem}{PNG}"
    if out is not None and out.suffix.lower() != PNG:
        msg = f"images are written as PNG: {out} does not end in {PNG}"
        raise UserError(msg)
    return Job(name, sys.stdin.buffer.read() if source == PIPE else Path(source), out)


def check_free(paths: Sequence[Path], *, force: bool) -> None:
    """Nothing is replaced unless it is to be.

    Raises:
        UserError: something is there already.
    """
    there = [path for path in paths if path.exists()]
    if there and not force:
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        msg = f"{there[0]}{others} would be replaced: --force does so"
        raise UserError(msg)


def png(image: Bytes) -> bytes:
    """An image, uint8 (C, H, W) with 1 or 3 channels, as the content of a PNG file."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def sheet(images: Bytes, columns: int | None = None) -> Bytes:
    """Images side by side, in rows of `columns`, by default about as many as there are rows; black where none is left.

    Shapes: (B, C, H, W) → (C, rows·H, columns·W).
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    _, channels, height, width = images.shape
    full = np.zeros((rows * columns, channels, height, width), np.uint8)
    full[: len(images)] = images
    grid = full.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
    return grid.reshape(channels, rows * height, columns * width)


def numbered(out: Path, count: int) -> list[Path]:
    """The paths of `count` images in the folder `out`, which sort in their order.

    Raises:
        UserError: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file that does not end in {PNG}: name a PNG, or a folder"
        raise UserError(msg)
    digits = len(str(count - 1))
    return [out / f"{number:0{digits}}{PNG}" for number in range(count)]
