"""Images as the report shows them: the same test images by every entry, and what each entry draws by itself."""

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aelab.evaluation.examples import Array, Examples
from aelab.report.pages import CAPTIONS, slug

PHOTOGRAPH = 64  # pixels along a side from which on images are compressed with loss in the page
GAP = 0.5  # gray between images, seen on white and on black


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

    @property
    def id(self) -> str:
        """Its name in an address."""
        return f"images-{slug(self.title)}"


def reconstructions(examples: Mapping[str, Examples], reference: str) -> Iterator[Gallery]:
    """The same test images as every entry gives them back, clean and under each kind of noise.

    Args:
        examples: by entry.
        reference: the corruption of "denoising MSE", in words.
    """
    if not examples:
        return
    caption = "Test images, and what each entry gives back."
    clean = {name: (each.images["original"], each.images["reconstruction"]) for name, each in examples.items()}
    yield _gallery("Reconstructions", caption, "original", clean)
    noisy = {name: (each.images["corrupted"], each.images["restored"]) for name, each in examples.items()}
    for corruption, pairs in {reference: noisy, **_middle(examples, reference)}.items():
        caption = f"Test images under {corruption}, and what each entry makes of them."
        yield _gallery(f"Denoising: {corruption}", caption, "corrupted", pairs)


def _middle(examples: Mapping[str, Examples], reference: str) -> dict[str, dict[str, tuple[Array, Array]]]:
    """Corrupted and restored images by corruption and entry, of each kind of noise that the reference is not of: the
    middle one of the levels that were drawn.
    """
    pairs: dict[str, dict[str, tuple[Array, Array]]] = {}
    for entry, each in examples.items():
        rows = each.figures.get("denoising", [])
        for (corruption, corrupted), (_, restored) in zip(rows[1::2], rows[2::2], strict=True):  # below the originals
            pairs.setdefault(corruption, {})[entry] = corrupted, restored
    kinds: dict[str, list[str]] = {}
    for corruption in pairs:
        kinds.setdefault(corruption.rpartition(" ")[0], []).append(corruption)
    middle = [levels[len(levels) // 2] for kind, levels in kinds.items() if not reference.startswith(kind)]
    return {corruption: pairs[corruption] for corruption in middle}


def _gallery(title: str, caption: str, name: str, pairs: Mapping[str, tuple[Array, Array]]) -> Gallery:
    """The images as the first entry has seen them, and below them what each entry makes of them."""
    (seen, _), *_ = pairs.values()
    strips = [Strip(name, f"{name} test images", seen[None])]
    strips += [Strip(entry, f"{title.lower()}: by {entry}", made[None]) for entry, (_, made) in pairs.items()]
    return Gallery(title, caption, strips)


def sheets(examples: Mapping[str, Examples]) -> Iterator[Gallery]:
    """What each entry draws of itself, entries beside each other."""
    for figure, text in CAPTIONS["sheets"].items():
        drawn = {
            name: np.stack([images for _, images in each.figures[figure]])
            for name, each in examples.items()
            if figure in each.figures
        }
        if drawn:
            strips = [Strip(name, f"{text['title'].lower()} of {name}", images) for name, images in drawn.items()]
            yield Gallery(text["title"], text["caption"], strips)
