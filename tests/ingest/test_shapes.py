import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aelab.core import arrays
from aelab.data.datasets import DATASETS, Data, Split
from aelab.ingest import downloads, shapes

MIDDLE = np.array([[0, 3, 4, 7, 8]], np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return downloads.load("shapes", tmp_path_factory.mktemp("raw"))


def changed(factor: str, value: int) -> NDArray[np.float64]:
    factors = MIDDLE.copy()
    factors[0, list(shapes.COUNTS).index(factor)] = value
    return shapes.render(factors)[0, 0] / 255.0


def centre(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre of the white shape, in pixels from the left and from the top."""
    points = np.arange(shapes.SIDE) + 0.5
    return np.array([image.sum(0) @ points, image.sum(1) @ points]) / image.sum()


def test_its_bytes_are_the_same_everywhere(data: Data) -> None:
    """The pinned file holds only the factors. This test pins the images."""
    digest = hashlib.sha256(np.concatenate([data.split(each).images for each in data.splits]).tobytes()).hexdigest()
    assert digest.startswith("6d8f1267185ee40b")
    assert data.image == DATASETS["shapes"].image == (1, shapes.SIDE, shapes.SIDE)


def test_factors_are_uniform_and_independent(data: Data) -> None:
    factors = data.split("train").factors
    assert factors is not None
    for column, count in zip(factors.T, shapes.COUNTS.values(), strict=True):
        shares = np.bincount(column, minlength=count) / len(column)
        np.testing.assert_allclose(shares, 1 / count, atol=0.02)
        assert len(shares) == count
    assert np.abs(np.corrcoef(factors.T) - np.eye(5)).max() < 0.03


def test_factors_and_classes_belong_to_their_images(data: Data) -> None:
    for name in data.splits:
        images, labels, factors = data.split(name)
        assert factors is not None
        assert np.array_equal(images[:20], shapes.render(factors[:20]))
        assert np.array_equal(labels, factors[:, 0])


def test_each_factor_does_what_its_name_says() -> None:
    assert centre(changed("x", 12))[0] - centre(changed("x", 0))[0] == pytest.approx(12 * 0.75, abs=0.1)
    assert centre(changed("y", 12))[1] - centre(changed("y", 0))[1] == pytest.approx(12 * 0.75, abs=0.1)
    assert changed("size", 4).sum() / changed("size", 0).sum() == pytest.approx((6 / 4) ** 2, rel=0.05)
    wide, tall = (changed("angle", angle) for angle in (4, 9))
    assert (wide.max(0) > 0).sum() > (tall.max(0) > 0).sum()
    areas = [changed("shape", shape).sum() for shape in range(3)]
    np.testing.assert_allclose(areas, np.array([np.pi / 2, 2, 1.5]) * 5.5**2, rtol=0.05)


def test_no_shape_is_cut_off_and_no_two_look_the_same() -> None:
    grid = np.stack(np.meshgrid(*map(np.arange, shapes.COUNTS.values()), indexing="ij"), -1).reshape(-1, 5)
    ends = grid[np.isin(grid[:, 3], (0, 15)) & np.isin(grid[:, 4], (0, 15))].astype(np.uint8)
    images = shapes.render(ends)
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(ends)
    areas = images.sum((1, 2, 3)).reshape(3, 6, 10, 4) / 255.0
    np.testing.assert_allclose(areas, areas.mean((2, 3), keepdims=True).repeat(10, 2).repeat(4, 3), rtol=0.06)


def test_factors_lie_beside_the_labels_of_such_data_sets_alone(data: Data, tmp_path: Path) -> None:
    rows = {name: (everything, chosen[:7]) for name, (everything, chosen) in data.splits.items()}
    Data(data.image, rows).save(tmp_path / "known")
    bare = {name: (Split(*everything[:2]), chosen) for name, (everything, chosen) in rows.items()}
    Data(data.image, bare).save(tmp_path / "unknown")
    for name in rows:
        found = arrays.read(tmp_path / "known" / name / "factors.npy")
        assert np.array_equal(found, data.split(name).factors[:7])  # type: ignore[index]
        assert "factors.npy" in (tmp_path / "known" / name / "SHA256SUMS").read_text()
        assert not (tmp_path / "unknown" / name / "factors.npy").exists()
