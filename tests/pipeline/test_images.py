import numpy as np
import pytest

from aelab.core import arrays
from aelab.data import datasets
from aelab.ingest.downloads import load
from pipeline.common import images, params, paths
from tests.support.parameters import DEFAULT, with_value


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    monkeypatch.chdir(tmp_path)


def written(binarize: str) -> params.Params:
    """Return the parameters after writing the digits as the stage `download` does."""
    content = with_value("dataset.binarize", binarize)
    checked = params.check(content)
    digits = load("digits")
    datasets.Data(digits.image, digits.splits, binarised=checked.dataset.binarised, seed=checked.dataset.seed).save(
        paths.CLEAN
    )
    return checked


def test_what_is_measured_is_gray_in_all_splits_or_in_none() -> None:
    for binarize in ("none", "static", "dynamic"):
        checked = written(binarize)
        for split in ("train", "validation", "test"):
            values = set(np.unique(images.seen(checked, split)))
            assert (values <= {0, 255}) == (binarize != "none"), (binarize, split)


def test_of_training_images_binarised_in_each_step_the_static_ones_are_seen() -> None:
    static = np.array(images.seen(written("static"), "train"))
    checked = written("dynamic")
    assert set(np.unique(arrays.read(paths.images(paths.CLEAN, "train")))) - {0, 255}  # training images are gray
    assert np.array_equal(images.seen(checked, "train"), static)


def test_images_that_come_black_and_white_are_called_so() -> None:
    content = with_value("dataset.name", "binarized-mnist")
    assert params.check(content).dataset.binarisation == "static"
    assert params.check(DEFAULT).dataset.binarisation == "none"
