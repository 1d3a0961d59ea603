"""Images as the report shows them: the same test images by every entry, and what each entry draws by itself.

Examples are what `evaluate` leaves of an entry: arrays of images (n, C, H, W), uint8, by name. The names of a figure's
rows are `figure/row/label`, the rows in their order.
"""

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Examples: TypeAlias = Mapping[str, NDArray[Any]]

PHOTOGRAPH = 64  # pixels along a side from which on images are compressed with loss in the page
GAP = 0.5  # gray between images, seen on white and on black
SHEETS = {
    "samples": ("Samples", "Images drawn from each entry's prior."),
    "interpolation": ("Interpolation", "Each row is a straight line from one image's code to another's, decoded."),
    "traversal": (
        "Traversal",
        "One dimension of one image's code turned over ±3 standard deviations, a row for each; those that vary most.",
    ),
}


@dataclass(frozen=True)
class Strip:
    """Images in rows, with the name of whose they are."""

    label: str
    about: str  # what a screen reader says
    images: NDArray[np.uint8]  # (rows, n, C, H, W)

    @property
    def sheet(self) -> Image.Image:
        """All of them on one sheet."""
        rows, count, channels, height, width = self.images.shape
        gap = max(1, height // 14)
        padded = np.pad(
            self.images, ((0, 0), (0, 0), (0, 0), (0, gap), (0, gap)), constant_values=round(255 * GAP)
        ).transpose(0, 3, 1, 4, 2)  # rows, height, n, width, channels
        sheet = padded.reshape(rows * (height + gap), count * (width + gap), channels)[:-gap, :-gap]
        return Image.fromarray(sheet.squeeze(-1) if channels == 1 else sheet)

    @property
    def pixelated(self) -> bool:
        """Whether its pixels are to be seen as squares."""
        return self.images.shape[-2] < PHOTOGRAPH

    @property
    def data_uri(self) -> str:
        """The sheet itself as an address."""
        file, kind = io.BytesIO(), "png" if self.pixelated else "webp"
        self.sheet.save(file, kind, **({"optimize": True} if self.pixelated else {"quality": 80}))
        return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Gallery:
    """Strips of the same images one below the other, or sheets beside each other."""

    title: str
    caption: str
    strips: list[Strip]


def reconstructions(examples: Mapping[str, Examples], reference: str) -> Iterator[Gallery]:
    """The same test images as every entry gives them back, clean and under each kind of noise.

    Args:
        examples: by entry.
        reference: the corruption of "denoising MSE", in words.
    """
    if examples:
        first = next(iter(examples.values()))
        caption = "Test images, and what each entry gives back."
        yield _gallery("Reconstructions", caption, examples, "original", "reconstruction")
        for corruption, (above, below) in {reference: ("corrupted", "restored"), **_middle(first, reference)}.items():
            caption = f"Test images under {corruption}, and what each entry makes of them."
            yield _gallery(f"Denoising: {corruption}", caption, examples, above, below)


def _middle(examples: Examples, reference: str) -> dict[str, tuple[str, str]]:
    """Of each kind of noise that the reference is not of, the middle one of the levels that were drawn: the rows of the
    corrupted images and, below these, of the restored ones.
    """
    kinds: dict[str, list[tuple[str, str]]] = {}
    for above, below in pairwise(sorted(key for key in examples if key.startswith("denoising/"))):
        if below.endswith("/restored"):
            kinds.setdefault(_label(above).rpartition(" ")[0], []).append((above, below))
    middle = [rows[len(rows) // 2] for kind, rows in kinds.items() if not reference.startswith(kind)]
    return {_label(above): (above, below) for above, below in middle}


def _label(row: str) -> str:
    return row.rpartition("/")[2]


def _gallery(title: str, caption: str, examples: Mapping[str, Examples], above: str, below: str) -> Gallery:
    """What stands above all, as the first entry has it, and below it what each entry makes of it."""
    name = "original" if above == "original" else "corrupted"
    strips = [Strip(name, f"{name} test images", next(iter(examples.values()))[above][None])]
    made = {entry: each[below] for entry, each in examples.items() if below in each}
    strips += [Strip(entry, f"{title.lower()}: by {entry}", images[None]) for entry, images in made.items()]
    return Gallery(title, caption, strips)


def sheets(examples: Mapping[str, Examples]) -> Iterator[Gallery]:
    """What each entry draws of itself, entries beside each other."""
    for figure, (title, caption) in SHEETS.items():
        drawn = {
            name: np.stack([each[key] for key in keys])
            for name, each in examples.items()
            if (keys := sorted(key for key in each if key.startswith(f"{figure}/")))
        }
        if drawn:
            strips = [Strip(name, f"{title.lower()} of {name}", images) for name, images in drawn.items()]
            yield Gallery(title, caption, strips)
