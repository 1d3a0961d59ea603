"""Input images and output files of the command line: files, folders or bytes. Output is PNG.

`ingest/image_folder.py` reads images of any size in several formats, turns them upright, makes them gray or coloured as
the model needs, and fits them to the model's size. The user names each output. Only `--force` replaces files.
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
    """An image to read, and the file to which the model's output is written."""

    name: str  # for messages and tables
    source: Path | bytes
    target: Path | None  # None if the output is not a file


def jobs(source: Path, out: Path | None) -> tuple[list[Job], list[LeftOut]]:
    """List the files of a folder that may be images.

    Args:
        source: the folder of images.
        out: a folder for a PNG of each image, with the image's name. If `source` has a.jpg and a.png, the output of
            a.jpg is a.jpg.png. None if the output is not a folder.

    Returns:
        A job for each file, and the files that are left out.

    Raises:
        UserError: `source` is empty, `out` is a file, or `out` is inside `source`, so the next call would read the
            output.
    """
    names, left_out = image_folder.listed(source)
    if not names:
        msg = f"the folder {source} contains no file"
        raise UserError(msg)
    if out is None:
        return [Job(image_folder.shown(name), source / name, None) for name in names], left_out
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file: name a folder for the output of the folder {source}"
        raise UserError(msg)
    if out.resolve().is_relative_to(source.resolve()):
        msg = f"{out} is inside {source}, so its images would count as input: name another folder"
        raise UserError(msg)
    short = [Path(name).with_suffix(PNG) for name in names]
    several = Counter(short)
    targets = [Path(name + PNG) if several[each] > 1 else each for name, each in zip(names, short, strict=True)]
    pairs = zip(names, targets, strict=True)
    return [Job(image_folder.shown(name), source / name, out / target) for name, target in pairs], left_out


def job(source: str, out: Path | None = None) -> Job:
    """Job for a single image.

    Args:
        source: the image's path, or `PIPE` for the standard input, which this function reads.
        out: a .png file, or an existing folder for a PNG with the image's name. None if the output is not a file.

    Raises:
        UserError: `out` does not end in .png.
    """
    name = "stdin" if source == PIPE else source
    if out is not None and out.is_dir():
        out /= f"{Path(name).stem}{PNG}"
    if out is not None and out.suffix.lower() != PNG:
        msg = f"images are written as PNG: {out} does not end in {PNG}"
        raise UserError(msg)
    return Job(name, sys.stdin.buffer.read() if source == PIPE else Path(source), out)


def check_free(paths: Sequence[Path], *, force: bool) -> None:
    """Check that no path exists, so that nothing is replaced without `force`.

    Raises:
        UserError: a path exists, and `force` is false.
    """
    there = [path for path in paths if path.exists()]
    if there and not force:
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        msg = f"{there[0]}{others} would be replaced: use --force to allow this"
        raise UserError(msg)


def png(image: Bytes) -> bytes:
    """Content of a PNG file of an image, uint8 (C, H, W) with 1 or 3 channels."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def sheet(images: Bytes, columns: int | None = None) -> Bytes:
    """Arrange images in a grid, row by row. Places without an image are black.

    Args:
        images: uint8 (B, C, H, W).
        columns: images in a row; by default ⌈√B⌉.

    Returns:
        uint8 (C, rows·H, columns·W).
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    _, channels, height, width = images.shape
    full = np.zeros((rows * columns, channels, height, width), np.uint8)
    full[: len(images)] = images
    grid = full.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
    return grid.reshape(channels, rows * height, columns * width)


def numbered(out: Path, count: int) -> list[Path]:
    """Paths of `count` numbered PNG files in the folder `out`. Their alphabetical order is the order of the numbers.

    Raises:
        UserError: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file that does not end in {PNG}: name a {PNG} file or a folder"
        raise UserError(msg)
    digits = len(str(count - 1))
    return [out / f"{number:0{digits}}{PNG}" for number in range(count)]
