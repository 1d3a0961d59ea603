"""Images of the report: reconstructions by all entries (model configurations), and samples of each entry."""

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aelab.evaluation.examples import Array, Examples
from aelab.report.pages import CAPTIONS, slug

PHOTOGRAPH = 64  # Pixels. The page contains images of at least this height as lossy WebP.
GAP = 0.5  # gray level of the gaps between images, visible beside white and beside black


@dataclass(frozen=True)
class Strip:
    """Rows of images with one label, such as the reconstructions of one entry.

    Attributes:
        label: the entry, or "original" or "corrupted".
        about: description for a screen reader.
        images: rows of n images each, uint8 (rows, n, C, H, W).
    """

    label: str
    about: str
    images: NDArray[np.uint8]

    @property
    def sheet(self) -> Image.Image:
        """All images in one picture."""
        rows, count, channels, height, width = self.images.shape
        gap = max(1, height // 14)
        padded = np.pad(
            self.images, ((0, 0), (0, 0), (0, 0), (0, gap), (0, gap)), constant_values=round(255 * GAP)
        ).transpose(0, 3, 1, 4, 2)  # rows, height, n, width, channels
        sheet = padded.reshape(rows * (height + gap), count * (width + gap), channels)[:-gap, :-gap]
        return Image.fromarray(sheet.squeeze(-1) if channels == 1 else sheet)

    @property
    def pixelated(self) -> bool:
        """Whether the page must show pixels as sharp squares."""
        return self.images.shape[-2] < PHOTOGRAPH

    @property
    def data_uri(self) -> str:
        """The sheet as a data URI."""
        file, kind = io.BytesIO(), "png" if self.pixelated else "webp"
        self.sheet.save(file, kind, **({"optimize": True} if self.pixelated else {"quality": 80}))
        return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Gallery:
    """Figure of strips: reconstructions one below the other, or samples of several entries side by side."""

    title: str
    caption: str
    strips: list[Strip]

    @property
    def id(self) -> str:
        """Anchor of the gallery in the page."""
        return f"images-{slug(self.title)}"


def reconstructions(examples: Mapping[str, Examples], reference: str) -> Iterator[Gallery]:
    """Yield galleries of every entry's reconstructions: one of clean images, and one for each kind of noise.

    Args:
        examples: the example images, by entry.
        reference: the corruption of "denoising MSE", such as "masking 0.5".
    """
    if not examples:
        return
    caption = "Test images, and each entry's reconstructions."
    clean = {name: (each.images["original"], each.images["reconstruction"]) for name, each in examples.items()}
    yield _gallery("Reconstructions", caption, "original", clean)
    noisy = {name: (each.images["corrupted"], each.images["restored"]) for name, each in examples.items()}
    for corruption, pairs in {reference: noisy, **_middle(examples, reference)}.items():
        caption = f"Test images under {corruption}, and each entry's reconstructions."
        yield _gallery(f"Denoising: {corruption}", caption, "corrupted", pairs)


def _middle(examples: Mapping[str, Examples], reference: str) -> dict[str, dict[str, tuple[Array, Array]]]:
    """Return corrupted and restored images, by corruption and entry, for the middle level of each kind of noise.

    The reference corruption's kind of noise is left out.
    """
    pairs: dict[str, dict[str, tuple[Array, Array]]] = {}
    for entry, each in examples.items():
        rows = each.figures.get("denoising", [])
        for (corruption, corrupted), (_, restored) in zip(rows[1::2], rows[2::2], strict=True):  # row 0: originals
            pairs.setdefault(corruption, {})[entry] = corrupted, restored
    kinds: dict[str, list[str]] = {}
    for corruption in pairs:
        kinds.setdefault(corruption.rpartition(" ")[0], []).append(corruption)
    middle = [levels[len(levels) // 2] for kind, levels in kinds.items() if not reference.startswith(kind)]
    return {corruption: pairs[corruption] for corruption in middle}


def _gallery(title: str, caption: str, name: str, pairs: Mapping[str, tuple[Array, Array]]) -> Gallery:
    """Return a gallery: the inputs, which are the same for every entry, and below them the outputs of every entry."""
    (seen, _), *_ = pairs.values()
    strips = [Strip(name, f"{name} test images", seen[None])]
    strips += [Strip(entry, f"{title.lower()}: by {entry}", made[None]) for entry, (_, made) in pairs.items()]
    return Gallery(title, caption, strips)


def sheets(examples: Mapping[str, Examples]) -> Iterator[Gallery]:
    """Yield galleries of samples, interpolations and traversals, with the entries side by side."""
    for figure, text in CAPTIONS["sheets"].items():
        drawn = {
            name: np.stack([images for _, images in each.figures[figure]])
            for name, each in examples.items()
            if figure in each.figures
        }
        if drawn:
            strips = [Strip(name, f"{text['title'].lower()} of {name}", images) for name, images in drawn.items()]
            yield Gallery(text["title"], text["caption"], strips)
