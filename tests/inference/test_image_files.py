import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aelab.core.errors import UserError
from aelab.inference import image_files
from aelab.ingest import image_folder
from aelab.ingest.image_folder import Depth, Fit

GREY, RGB = (1, 8, 8), (3, 8, 8)


def content(size: tuple[int, int] = (8, 8), mode: str = "L", colour: int | str = 77, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return file.getvalue()


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content())
    return folder


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch", "exact"])
def test_an_image_of_the_models_size_stays_as_it_is(fit: Fit, tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(GREY)
    (tmp_path / "a.png").write_bytes(image_files.png(pixels))
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        seen = image_folder.decoded(source, GREY, fit, Depth())
        assert isinstance(seen, np.ndarray)
        np.testing.assert_array_equal(seen, pixels)


def test_colour_is_written_and_read_back(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, RGB, dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(image_files.png(pixels))
    seen = image_folder.decoded(tmp_path / "a.png", RGB, "exact", Depth())
    assert isinstance(seen, np.ndarray)
    np.testing.assert_array_equal(seen, pixels)


def test_another_size_is_fitted_or_named() -> None:
    wide = content((20, 10))
    padded = image_folder.decoded(wide, GREY, "pad", Depth())
    assert isinstance(padded, np.ndarray)
    assert padded.shape == GREY
    assert padded[0, 0].tolist() == [0] * 8
    assert image_folder.decoded(wide, GREY, "exact", Depth()) == "is 20×10 pixels, the model takes 8×8"


@pytest.mark.parametrize("fit", ["crop", "exact"])
def test_what_is_no_image_has_its_reason(fit: Fit, tmp_path: Path) -> None:
    assert (
        image_folder.decoded(b"hello", GREY, fit, Depth())
        == "is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one"
    )
    assert image_folder.decoded(b"", GREY, fit, Depth()) == "is empty"
    assert (
        image_folder.decoded(content()[:40], GREY, fit, Depth())
        == "is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one"
    )
    assert (
        image_folder.decoded(tmp_path / "none.png", GREY, fit, Depth()) == "cannot be read (No such file or directory)"
    )


def test_a_folder_keeps_its_names_and_tells_apart_what_would_be_the_same(tmp_path: Path) -> None:
    source = touched(tmp_path / "in", "a.png", "a.jpg", "b.jpeg", "sub/a.png", ".hidden")
    jobs, left_out = image_files.jobs(source, tmp_path / "out")
    assert not left_out
    found = {job.name: job.target for job in jobs}
    assert found == {
        "a.jpg": tmp_path / "out/a.jpg.png",
        "a.png": tmp_path / "out/a.png.png",
        "b.jpeg": tmp_path / "out/b.png",
        "sub/a.png": tmp_path / "out/sub/a.png",
    }


def test_where_nothing_can_be_read_or_written_is_told(tmp_path: Path) -> None:
    source = touched(tmp_path / "in", "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no file"):
        image_files.jobs(tmp_path / "empty", None)
    with pytest.raises(UserError, match=r"a\.png is a file"):
        image_files.jobs(source, source / "a.png")
    for out in (source, source / "out"):
        with pytest.raises(UserError, match="name another folder"):
            image_files.jobs(source, out)
    with pytest.raises(UserError, match=r"b\.jpg does not end in \.png"):
        image_files.job(str(source / "a.png"), tmp_path / "b.jpg")
    with pytest.raises(UserError, match="is a file that does not end in"):
        image_files.numbered(touched(tmp_path, "c.jpg") / "c.jpg", 2)


def test_one_image_goes_into_a_folder_that_is_there(tmp_path: Path) -> None:
    assert image_files.job("x/a.jpg", tmp_path).target == tmp_path / "a.png"
    assert image_files.job("x/a.jpg", tmp_path / "b.PNG").target == tmp_path / "b.PNG"


def test_nothing_is_replaced_unless_it_is_to_be(tmp_path: Path) -> None:
    touched(tmp_path, "a.png", "b.png")
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    image_files.check_free(paths[2:], force=False)
    image_files.check_free(paths, force=True)
    with pytest.raises(UserError, match=r"a\.png and 1 more would be replaced: use --force to allow this"):
        image_files.check_free(paths, force=False)


def test_a_sheet_has_every_image_in_its_place() -> None:
    images = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(2, 2).repeat(3, 3)
    assert image_files.sheet(images)[0].tolist() == [
        *[[1] * 3 + [2] * 3 + [3] * 3] * 2,
        *[[4] * 3 + [5] * 3 + [0] * 3] * 2,
    ]
    assert image_files.sheet(images, columns=5)[0].tolist() == [[value for value in range(1, 6) for _ in range(3)]] * 2
    assert image_files.sheet(images[:1])[0].tolist() == [[1] * 3] * 2


def test_numbers_sort_in_their_order(tmp_path: Path) -> None:
    names = [path.name for path in image_files.numbered(tmp_path / "out", 12)]
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("00.png", "11.png")
