"""Input images and output files of the command line `aelab`. Output images are PNG files.

The input is a file, a folder or the standard input. `ingest/image_folder.py` reads images of any size in several
formats, turns them upright, makes them gray or coloured as the model needs, and fits them to the model's size. The user
names the output file or folder. An existing file is replaced only with the option `--force`.
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

    name: str  # the image's name in messages and tables
    source: Path | bytes  # the image's file, or the content of the file
    target: Path | None  # None if the image has no output file


def jobs(source: Path, out: Path | None) -> tuple[list[Job], list[LeftOut]]:
    """List the possible images in a folder.

    Args:
        source: the folder of images.
        out: a folder for a PNG file of each image, or None if the output is not a folder. The output of a.jpg is a.png.
            If `source` also contains a.png, the outputs are a.jpg.png and a.png.png.

    Returns:
        A job for each possible image, and the other files, each with the reason why the file is left out.

    Raises:
        UserError: `source` is empty, `out` is a file, or `out` is inside `source`. In the last case, the next call
            would read the output as input.
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
    """Return the job for a single image.

    Args:
        source: the image's path, or `PIPE` for the standard input, which this function reads.
        out: a .png file, or an existing folder for a PNG file with the image's name. None if the output is not a file.

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
    """Check that none of the paths exists, so that no file is replaced. With `force`, paths may exist.

    Raises:
        UserError: a path exists, and `force` is false.
    """
    there = [path for path in paths if path.exists()]
    if there and not force:
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        msg = f"{there[0]}{others} would be replaced: use --force to allow this"
        raise UserError(msg)


def png(image: Bytes) -> bytes:
    """Convert an image, uint8 (C, H, W) with 1 or 3 channels, to the content of a PNG file."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def sheet(images: Bytes, columns: int | None = None) -> Bytes:
    """Arrange images in a grid, row by row. Places without an image are black.

    Args:
        images: uint8 (B, C, H, W).
        columns: number of images in a row; None for ⌈√B⌉.

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
    """Paths of `count` PNG files in the folder `out`, numbered from 0. Leading zeros make all names equally long.

    Raises:
        UserError: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file that does not end in {PNG}: name a {PNG} file or a folder"
        raise UserError(msg)
    digits = len(str(count - 1))
    return [out / f"{number:0{digits}}{PNG}" for number in range(count)]
