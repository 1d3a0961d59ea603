from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aelab.core import arrays, disk
from aelab.core.errors import UserError
from aelab.data import datasets
from aelab.ingest.downloads import load


def test_validation_is_held_out_by_seed() -> None:
    rows = np.arange(100)
    rest, held = datasets.hold_out(rows, 0.2, seed=0)
    assert len(held) == 20
    assert sorted([*rest, *held]) == list(range(100))
    assert np.array_equal(held, np.sort(held))
    assert np.array_equal(datasets.hold_out(rows, 0.2, seed=0)[1], held)
    assert not np.array_equal(datasets.hold_out(rows, 0.2, seed=1)[1], held)


def test_a_data_set_is_split_once_and_saved_as_arrays(tmp_path: Path) -> None:
    loaded = load("digits", tmp_path / "raw", validation=0.1, seed=0)
    assert [len(each) for each in (loaded.train, loaded.validation, loaded.test)] == [1293, 144, 360]
    loaded.save(tmp_path / "clean")
    for name in ("train", "validation", "test"):
        images, labels = (arrays.read(tmp_path / "clean" / name / f"{each}.npy") for each in ("images", "labels"))
        assert np.array_equal(images, loaded.split(name).images)
        assert np.array_equal(labels, loaded.split(name).labels)


def test_a_users_images_are_divided_into_three() -> None:
    everything = datasets.Split(np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(100, dtype=np.uint8))
    divided = datasets.divide(everything, "folder x", validation=0.1, test=0.2, seed=0)
    parts = [divided.split(name).labels.tolist() for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [72, 8, 20]
    assert sorted(label for part in parts for label in part) == list(range(100))
    assert divided.image == (1, 1, 1)


def test_too_few_images_are_a_sentence() -> None:
    everything = datasets.Split(np.zeros((3, 1, 2, 2), np.uint8), np.zeros(3, np.uint8))
    with pytest.raises(
        UserError, match="folder x has 3 images, too few: fewer than 2 would be left for validation and test"
    ):
        datasets.divide(everything, "folder x", validation=0.1, test=0.1, seed=0)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    disk.write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        disk.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_binarised_pixels_are_white_as_often_as_they_are_bright() -> None:
    gray = np.tile(np.arange(256, dtype=np.uint8), (4000, 1))
    (binary,) = datasets.binarise([gray], 0, "train")
    assert set(np.unique(binary)) == {0, 255}
    np.testing.assert_allclose((binary / 255).mean(0), gray[0] / 255, atol=0.05)
    assert (binary[:, 0] == 0).all()
    assert (binary[:, 255] == 255).all()


def test_binarisation_is_its_seed_s() -> None:
    gray = np.full((10, 1, 8, 8), 128, np.uint8)
    once, again, other = (np.concatenate(list(datasets.binarise([gray], seed, "train"))) for seed in (0, 0, 1))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_only_the_splits_asked_for_are_binarised(tmp_path: Path) -> None:
    digits = load("digits", tmp_path / "raw")
    replace(digits, binarised=("validation", "test")).save(tmp_path / "clean")
    gray = {
        name: set(np.unique(arrays.read(tmp_path / "clean" / name / "images.npy"))) - {0, 255} for name in digits.splits
    }
    assert gray["train"]
    assert not gray["validation"]
    assert not gray["test"]


@pytest.mark.parametrize("count", [2, 3, 7, 72])
def test_the_training_split_alone_is_thinned_evenly(count: int) -> None:
    """Thinning comes after the split, so the validation split stays the same."""
    everything = datasets.Split(np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(100, dtype=np.uint8))
    whole = datasets.divide(everything, "folder x", validation=0.1, test=0.2, seed=0)
    thinned = whole.thinned(count)
    kept, before = (each.split("train").labels.tolist() for each in (thinned, whole))
    assert kept == [before[round(i * 71 / (count - 1))] for i in range(count)]
    for name in ("validation", "test"):
        assert np.array_equal(thinned.split(name).labels, whole.split(name).labels)


@pytest.mark.parametrize("count", [-1, 0, 1, 73, 10**9])
def test_more_training_images_than_there_are_is_a_sentence(count: int) -> None:
    everything = datasets.Split(np.zeros((100, 1, 1, 1), np.uint8), np.zeros(100, np.uint8))
    whole = datasets.divide(everything, "folder x", validation=0.1, test=0.2, seed=0)
    with pytest.raises(UserError, match=rf"^dataset.train_images is {count:,}: must be from 2 to 72, the number of"):
        whole.thinned(count, "dataset.train_images")
