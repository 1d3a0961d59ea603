import io
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aelab.evaluation import lossless


def gray(count: int, *shape: int, high: int = 256) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, high, (count, *shape), np.uint8)


def test_the_entropy_of_a_binarisation_is_that_of_each_pixel() -> None:
    images = gray(3, 1, 5, 4)
    x = images.reshape(3, -1) / 255
    inner = np.clip(x, 1e-300, 1 - 1e-16)
    by_hand = -(x * np.log(inner) + (1 - x) * np.log1p(-inner)).sum(1).mean()
    assert lossless.entropy(images) == pytest.approx(by_hand, rel=1e-6)
    assert lossless.entropy(np.where(images > 127, 255, 0).astype(np.uint8)) == 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7), (1, 28, 28)])
@pytest.mark.parametrize("name", lossless.FORMATS)
def test_a_file_counts_as_a_whole_and_holds_all_of_the_image(shape: tuple[int, ...], name: str) -> None:
    images, found = gray(4, *shape, high=9), []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(file, name, **lossless.FORMATS[name])
        found.append(len(file.getvalue()))
        mode = "L" if len(image) == 1 else "RGB"
        assert np.array_equal(np.asarray(Image.open(file).convert(mode)), image.transpose(1, 2, 0).squeeze())
    values = lossless.floors(images, 100)
    assert values[f"{name}_nats"] == pytest.approx(8 * math.log(2) * np.mean(found))
    assert values[f"{name}_bits_per_dim"] == pytest.approx(8 * np.mean(found) / math.prod(shape))


def test_black_and_white_takes_a_bit_a_pixel() -> None:
    images = gray(20, 1, 28, 28, high=2) * np.uint8(255)
    values = lossless.floors(images, 100)
    assert values["binarisation_nats"] == 0
    assert 1 <= values["png_bits_per_dim"] < 2.2  # rows are padded to whole bytes, and the file has a header
    one_is_gray = images.copy()
    one_is_gray[0, 0, 0, 0] = 128
    assert lossless.floors(one_is_gray, 100)["png_bits_per_dim"] > values["png_bits_per_dim"]


def test_no_more_images_than_wanted_and_fewer_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((9, 1, 8, 8), np.uint8)
    images[[0, 4, 8]] = 128
    chosen = math.log(2) * 64
    assert lossless.floors(images, 3)["binarisation_nats"] == pytest.approx(chosen, rel=1e-4)
    assert lossless.floors(images, 9)["binarisation_nats"] == pytest.approx(chosen / 3, rel=1e-4)
    monkeypatch.setattr(lossless, "NUMBERS", 3 * 64 + 63)
    assert lossless.floors(images, 9)["binarisation_nats"] == pytest.approx(chosen, rel=1e-4)
