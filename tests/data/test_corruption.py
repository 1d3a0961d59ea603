import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from aelab.core import arrays
from aelab.data.corruption import KINDS, corrupt, mixture

GREY = np.full((200, 1, 28, 28), 128, np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_target_stays_clean(kind: str, pixels: NDArray[np.uint8]) -> None:
    before = pixels.copy()
    assert not np.array_equal(corrupt(pixels, kind, 0.5, seed=0, name="a"), before)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("level", [0.25, 0.5, 0.75, 1.0])
def test_masking_sets_that_share_to_zero_and_leaves_the_rest(level: float) -> None:
    corrupted = corrupt(GREY, "masking", level, seed=0, name="a")
    assert (corrupted == 0).mean() == pytest.approx(level, abs=0.005)
    assert set(np.unique(corrupted)) <= {0, 128}


def test_gaussian_has_that_standard_deviation() -> None:
    noise = corrupt(GREY, "gaussian", 0.1, seed=0, name="a").astype(float) - 128
    assert noise.mean() == pytest.approx(0, abs=0.3)
    assert noise.std() / 255 == pytest.approx(0.1, rel=0.01)


def test_salt_and_pepper_are_equally_many() -> None:
    corrupted = corrupt(GREY, "salt_and_pepper", 0.4, seed=0, name="a")
    assert (corrupted == 0).mean() == pytest.approx(0.2, abs=0.005)
    assert (corrupted == 255).mean() == pytest.approx(0.2, abs=0.005)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_repeatable_and_independent(kind: str) -> None:
    a, again, b = (corrupt(GREY, kind, 0.5, seed=0, name=name) for name in ("a", "a", "b"))
    assert np.array_equal(a, again)
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, corrupt(GREY, kind, 0.5, seed=1, name="a"))


@pytest.mark.parametrize(
    ("kind", "digest"),
    [("masking", "60071e3d4dd4b898"), ("gaussian", "9512a67f641a53ea"), ("salt_and_pepper", "ca3c3b214f528449")],
)
def test_same_bytes_on_every_machine(kind: str, digest: str) -> None:
    corrupted = corrupt(GREY, kind, 0.3, seed=7, name="golden")
    assert hashlib.sha256(corrupted.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_the_same_noise(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.full((7, 3, 5, 5), 128, np.uint8)  # an odd number of bytes each
    whole = corrupt(images, kind, 0.5, seed=0, name="a")
    monkeypatch.setattr(arrays, "CHUNK", 2 * 8 * 75)
    pieces = list(mixture(images, [(kind, 0.5)], seed=0, name="a"))
    assert [len(piece) for piece in pieces] == [2, 2, 2, 1]
    assert np.array_equal(np.concatenate(pieces), whole)


MIXED = (("masking", 0.25), ("masking", 0.75), ("salt_and_pepper", 0.5))


def test_each_image_of_a_mixture_is_under_one_corruption_at_equal_odds() -> None:
    grey = np.full((3000, 1, 16, 16), 128, np.uint8)
    noisy = np.concatenate(list(mixture(grey, MIXED, seed=0, name="a"))).reshape(3000, -1)
    black, white = (noisy == 0).mean(1), (noisy == 255).mean(1)
    assert ((black > 0.1) | (white > 0.1)).all()
    salted = white > 0
    assert black[salted].mean() == pytest.approx(0.25, abs=0.01)
    heavy = ~salted & (black > 0.5)
    assert black[heavy].mean() == pytest.approx(0.75, abs=0.01)
    assert black[~salted & ~heavy].mean() == pytest.approx(0.25, abs=0.01)
    assert [salted.mean(), heavy.mean()] == pytest.approx([1 / 3, 1 / 3], abs=0.03)
    again = np.concatenate(list(mixture(grey, MIXED, seed=0, name="b"))).reshape(3000, -1)
    assert ((again == 255).any(1) & salted).mean() == pytest.approx(1 / 9, abs=0.03)  # two copies draw independently


def test_same_mixture_on_every_machine() -> None:
    noisy = np.concatenate(list(mixture(GREY, MIXED, seed=7, name="golden")))
    assert hashlib.sha256(noisy.tobytes()).hexdigest()[:16] == "547b72f4335b8e84"


def test_pieces_are_the_same_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.full((7, 3, 5, 5), 128, np.uint8)
    (whole,) = mixture(images, MIXED, seed=0, name="a")
    monkeypatch.setattr(arrays, "CHUNK", 2 * 8 * 75)
    pieces = list(mixture(images, MIXED, seed=0, name="a"))
    assert [len(piece) for piece in pieces] == [2, 2, 2, 1]
    assert np.array_equal(np.concatenate(pieces), whole)
