"""Galleries of images, and strips as single pictures."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aelab.evaluation.examples import Examples
from aelab.report.galleries import Strip, reconstructions, sheets


def images(value: int, count: int = 2) -> NDArray[np.uint8]:
    return np.full((count, 1, 8, 8), value, np.uint8)


LABELS = ["original", "masking 0.5", "restored", "gaussian 0.1", "restored", "gaussian 0.3", "restored"]
EXAMPLES = Examples(
    {name: images(i) for i, name in enumerate(("original", "reconstruction", "corrupted", "restored"))},
    {"denoising": [(label, images(10 + i)) for i, label in enumerate(LABELS)]},
    {},
)


def test_clean_images_then_the_reference_then_the_middle_level_of_each_other_kind() -> None:
    found = list(reconstructions({"a": EXAMPLES, "b": EXAMPLES}, "masking 0.5"))
    assert [each.title for each in found] == ["Reconstructions", "Denoising: masking 0.5", "Denoising: gaussian 0.3"]
    assert [strip.label for strip in found[0].strips] == ["original", "a", "b"]
    assert [strip.label for strip in found[2].strips] == ["corrupted", "a", "b"]
    assert [int(strip.images.max()) for strip in found[1].strips] == [2, 3, 3]
    assert [int(strip.images.max()) for strip in found[2].strips] == [15, 16, 16]
    assert list(reconstructions({}, "masking 0.5")) == []


def test_a_sheet_is_there_for_entries_that_draw_one() -> None:
    drawn = replace(EXAMPLES, figures={"samples": [("", images(row)) for row in range(3)]})
    (gallery,) = sheets({"vae": drawn, "ae": EXAMPLES})
    assert gallery.title == "Samples"
    (strip,) = gallery.strips
    assert (strip.label, strip.images.shape) == ("vae", (3, 2, 1, 8, 8))


def test_images_stand_in_rows_with_gaps_between() -> None:
    images = np.zeros((2, 3, 1, 14, 14), np.uint8)
    sheet = Strip("a", "", images).sheet
    assert (sheet.height, sheet.width) == (2 * 15 - 1, 3 * 15 - 1)
    assert sheet.mode == "L"
    assert Strip("a", "", np.zeros((1, 1, 3, 64, 64), np.uint8)).sheet.mode == "RGB"
    assert Strip("a", "", images).pixelated
    assert Strip("a", "", np.zeros((1, 1, 3, 64, 64), np.uint8)).data_uri.startswith("data:image/webp;base64,")
