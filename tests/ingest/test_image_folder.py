import errno
import io
import os
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from aelab.core.errors import UserError
from aelab.data.datasets import Bytes, Shape
from aelab.ingest import image_folder
from aelab.ingest.image_folder import Fit, Folder, LeftOut

NOT_AN_IMAGE = "is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one"
GREY, RGB = (1, 8, 8), (3, 8, 8)


def _read(root: Path, shape: Shape = RGB, fit: Fit = "crop", workers: int = 1) -> tuple[Folder, Bytes]:
    result = image_folder.read(root, shape, fit=fit, scratch=root.parent, workers=workers)
    images = result.images
    assert images.dtype == np.uint8
    assert images.shape[1:] == shape
    assert len(images) == len(result.labels)
    return result, images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def _content(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _plain(mode: str, colour: Any, size: tuple[int, int] = (20, 20)) -> Image.Image:
    return Image.new(mode, size, colour)


def _halves(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = _plain("RGB", "red", size)
    image.paste("blue", (size[0] // 2, 0, *size))
    return image


def _noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _bomb(side: int) -> bytes:
    """PNG whose header states side² pixels, but which holds only a few bytes of them."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _palette(**options: Any) -> bytes:
    image = _plain("P", 1)
    image.putpalette([255, 0, 0, 0, 200, 0])
    return _content(image, **options)


def _oriented(kind: str, value: int) -> bytes:
    """Image stored in EXIF orientation `value`. Upright, the left half is red and the right half is blue."""
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[value]  # Pillow's Transpose; 6 and 8 are inverse
    image = _halves() if inverse is None else _halves().transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    lossless: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    return _content(image, kind, exif=exif, **lossless.get(kind, {}))


# Image files, with the colour of every pixel.
ACCEPTED: dict[str, tuple[Callable[[], bytes], tuple[int, int, int]]] = {
    "bilevel": (lambda: _content(_plain("1", 1)), (255, 255, 255)),
    "grey": (lambda: _content(_plain("L", 77)), (77, 77, 77)),
    "grey, half transparent": (lambda: _content(_plain("LA", (0, 128))), (127, 127, 127)),
    "grey, one grey transparent": (lambda: _content(_plain("L", 77), transparency=77), (255, 255, 255)),
    "16 bits": (lambda: _content(_plain("I;16", 257 * 200)), (200, 200, 200)),
    "16 bits, TIFF": (lambda: _content(_plain("I;16", 257 * 200 + 128), "TIFF"), (200, 200, 200)),
    "16 bits, TIFF, big-endian": (lambda: _content(_plain("I;16B", 65535), "TIFF"), (255, 255, 255)),
    "palette": (_palette, (0, 200, 0)),
    "palette, transparent": (lambda: _palette(transparency=1), (255, 255, 255)),
    "palette, half transparent": (lambda: _palette(transparency=b"\xff\x80"), (127, 227, 127)),
    "colour": (lambda: _content(_plain("RGB", (1, 2, 3))), (1, 2, 3)),
    "colour, transparent": (lambda: _content(_plain("RGBA", (1, 2, 3, 0))), (255, 255, 255)),
    "colour, half transparent": (lambda: _content(_plain("RGBA", (0, 100, 200, 128))), (127, 177, 227)),
    "CMYK, JPEG": (lambda: _content(_plain("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0)),
    "CMYK, TIFF": (lambda: _content(_plain("CMYK", (255, 0, 255, 0)), "TIFF"), (0, 255, 0)),
    "YCbCr, TIFF": (lambda: _content(_plain("YCbCr", (99, 128, 128)), "TIFF"), (99, 99, 99)),
    "BMP": (lambda: _content(_plain("RGB", (1, 2, 3)), "BMP"), (1, 2, 3)),
    "WebP": (lambda: _content(_plain("RGB", (1, 2, 3)), "WEBP", lossless=True), (1, 2, 3)),
    "progressive JPEG": (lambda: _content(_plain("L", 77), "JPEG", progressive=True), (77, 77, 77)),
    "two frames, PNG": (
        lambda: _content(_plain("L", 10), save_all=True, append_images=[_plain("L", 200)]),
        (10, 10, 10),
    ),
    "two frames, WebP": (
        lambda: _content(
            _plain("RGB", (9, 9, 9)), "WEBP", save_all=True, append_images=[_halves((20, 20))], lossless=True
        ),
        (9, 9, 9),
    ),
    "two pages, TIFF": (
        lambda: _content(_plain("L", 10), "TIFF", save_all=True, append_images=[_plain("L", 200)]),
        (10, 10, 10),
    ),
    "two pictures, JPEG": (
        lambda: _content(_plain("L", 10), "MPO", save_all=True, append_images=[_plain("L", 200)]),
        (10, 10, 10),
    ),
    "one pixel": (lambda: _content(_plain("RGB", (1, 2, 3), (1, 1))), (1, 2, 3)),
    "one row": (lambda: _content(_plain("RGB", (1, 2, 3), (3000, 1))), (1, 2, 3)),
    "one column": (lambda: _content(_plain("RGB", (1, 2, 3), (1, 3000)), "BMP"), (1, 2, 3)),
    "EXIF that is none": (
        lambda: _content(_plain("RGB", (1, 2, 3)), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        (1, 2, 3),
    ),
}

LEFT_OUT: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"no image at all", NOT_AN_IMAGE),
    "GIF": (lambda: _content(_plain("L", 0), "GIF"), NOT_AN_IMAGE),
    "PPM": (lambda: _content(_plain("L", 0), "PPM"), NOT_AN_IMAGE),
    "half a PNG": (lambda: _half(_content(_noise((40, 40)))), "is truncated"),
    "half a JPEG": (lambda: _half(_content(_noise((40, 40)), "JPEG")), "is truncated"),
    "half a BMP": (lambda: _half(_content(_noise((40, 40)), "BMP")), "is truncated"),
    "half a TIFF": (lambda: _half(_content(_noise((40, 40)), "TIFF")), "is truncated"),
    "half a packed TIFF": (
        lambda: _half(_content(_noise((40, 40)), "TIFF", compression="tiff_lzw")),
        NOT_AN_IMAGE,
    ),
    "half a WebP": (
        lambda: _half(_content(_noise((40, 40)), "WEBP")),
        "is damaged (could not create decoder object)",
    ),
    "a PNG's first bytes": (lambda: _content(_plain("L", 0))[:12], NOT_AN_IMAGE),
    "a PNG without pixels": (lambda: _bomb(1000), "is truncated"),
    "a PNG with a changed pixel": (
        lambda: _changed(_content(_noise((40, 40)))),
        "is damaged (broken data stream when reading image file)",
    ),
    "bomb": (lambda: _bomb(10_001), "has more than the 100 megapixels allowed"),
    "bomb that Pillow warns of": (lambda: _bomb(13_000), "has more than the 100 megapixels allowed"),
    "bomb that Pillow refuses": (lambda: _bomb(50_000), "has more than the 100 megapixels allowed"),
    "32 bits": (lambda: _content(_plain("I", 100_000), "TIFF"), "has pixels of a kind that is not supported (I)"),
    "floats": (lambda: _content(_plain("F", 0.5), "TIFF"), "has pixels of a kind that is not supported (F)"),
    "Lab": (lambda: _content(_plain("LAB", (50, 0, 0)), "TIFF"), "has pixels of a kind that is not supported (LAB)"),
}


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _changed(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("kind", ACCEPTED)
def test_odd_images_are_accepted(kind: str, root: Path) -> None:
    make, colour = ACCEPTED[kind]
    (root / "odd.jpg").write_bytes(make())
    result, images = _read(root)
    assert result.left_out == []
    assert {tuple(pixel) for pixel in images[0].reshape(3, -1).T.tolist()} == {colour}
    grey = Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))
    _, images = _read(root, GREY)
    assert np.abs(images.astype(int) - grey).max() <= 1


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_cannot_be_read_is_left_out_with_the_reason(
    kind: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make, reason = LEFT_OUT[kind]
    (root / "a.png").write_bytes(make())
    (root / "b.png").write_bytes(_content(_plain("L", 77)))
    result, images = _read(root)
    assert result.left_out == [LeftOut("a.png", reason)]
    assert len(images) == 1
    assert (images == 77).all()
    assert capfd.readouterr() == ("", "")


def test_the_guard_against_bombs_is_what_keeps_large_images_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "large.png").write_bytes(_content(_plain("L", 77, (100, 100))))
    monkeypatch.setattr(image_folder, "MAX_PIXELS", 100 * 100)
    assert len(_read(root)[1]) == 1
    monkeypatch.setattr(image_folder, "MAX_PIXELS", 100 * 100 - 1)
    with pytest.raises(UserError, match=r"large\.png, which has more than the 0\.009999 megapixels allowed"):
        _read(root)


def test_large_images_are_not_decoded_before_they_are_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "bomb.png").write_bytes(_bomb(20_000))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(UserError, match="more than the 100 megapixels"):
        _read(root)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_images_are_turned_upright(kind: str, value: int, root: Path) -> None:
    (root / "turned").write_bytes(_oriented(kind, value))
    _, images = _read(root, (3, 10, 20))
    red, blue = images[0, :, :, :7], images[0, :, :, -7:]
    for side, channel in ((red, 0), (blue, 2)):
        assert side[channel].min() > 240
        assert np.delete(side, channel, axis=0).max() < 15


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (41, 19), (7, 7), (1, 9), (333, 2)])
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 5, 12), (3, 12, 5)])
def test_crop_takes_the_centre_and_pad_takes_all(size: tuple[int, int], shape: Shape, root: Path) -> None:
    (root / "image.bmp").write_bytes(_content(_plain("RGB", "red", size), "BMP"))
    _, height, width = shape
    for fit in ("crop", "stretch"):
        _, images = _read(root, shape, fit)
        assert (images[0, 0] == 255).all()
    _, images = _read(root, shape, "pad")
    scale = min(width / size[0], height / size[1])
    inner = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    rows, columns = np.nonzero(images[0, 0])
    assert (images[0, 0] == 255).sum() == inner[0] * inner[1]
    assert not images[0, 1:].any()
    assert (rows.min(), columns.min()) == ((height - inner[1]) // 2, (width - inner[0]) // 2)
    assert [int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1] == [*inner[::-1]]


def test_crop_cuts_both_ends_alike(root: Path) -> None:
    image = _plain("RGB", "black", (60, 20))
    image.paste("white", (20, 0, 40, 20))
    (root / "image.png").write_bytes(_content(image))
    row = _read(root, (1, 10, 10))[1][0, 0, 5]
    assert row.min() > 230  # the filter also reads pixels beyond the edge
    assert np.array_equal(row, row[::-1])
    row = _read(root, (1, 10, 30), "stretch")[1][0, 0, 5]
    assert np.abs(row[[0, 7, 12, 17, 22, 29]].astype(int) - [0, 0, 255, 255, 0, 0]).max() <= 1


def test_an_image_of_the_size_keeps_its_pixels(root: Path) -> None:
    (root / "image.png").write_bytes(_content(_noise((8, 8))))
    for fit in ("crop", "pad", "stretch"):
        assert np.array_equal(_read(root, RGB, fit)[1][0].transpose(1, 2, 0), np.asarray(_noise((8, 8))))


def test_shrinking_averages(root: Path) -> None:
    pixels = np.indices((512, 512)).sum(0) % 2 * 255  # a chessboard of single pixels
    (root / "a.png").write_bytes(_content(Image.fromarray(pixels.astype(np.uint8))))
    (root / "b.jpg").write_bytes(_content(Image.fromarray(pixels.astype(np.uint8)), "JPEG", quality=100))
    assert np.abs(_read(root)[1].astype(int) - 128).max() <= 2


def test_16_bits_are_scaled_exactly(root: Path) -> None:
    values = np.arange(0, 2**16, 1024, dtype=np.uint16).reshape(8, 8) + 300
    (root / "a.png").write_bytes(_content(Image.fromarray(values)))
    assert np.array_equal(_read(root, GREY)[1][0, 0], np.rint(values / 257))


def _png16(value: int, channels: int = 1, alpha: int | None = None) -> bytes:
    """PNG with 16 bits per channel, which Pillow cannot write. A given `alpha` fills the last channel."""
    pixels = np.full((4, 4, channels), value, ">u2")
    if alpha is not None:
        pixels[..., -1] = alpha
    header = struct.pack(">IIBBBBB", 4, 4, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _tiff16(
    value: int, channels: int = 1, *, order: str = "<", bits: int = 16, white_is_zero: bool = False, planes: int = 1
) -> bytes:
    """TIFF of 4×4 pixels of one value, with 16 bits per channel, or with one channel of `bits`, packed."""
    if bits == 16:
        pixels = struct.pack(order + "H", value) * 16 * channels
    else:
        pixels = int(f"{value:0{bits}b}" * 16, 2).to_bytes(2 * bits, "big")
    photometric = 2 if channels > 1 else int(not white_is_zero)
    depths = 8 + len(pixels)  # offset in the file
    start = depths + 2 * channels
    fields = [
        *((256, 3, 1, 4), (257, 3, 1, 4), (258, 3, channels, bits if channels == 1 else depths), (259, 3, 1, 1)),
        *((262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, channels), (278, 3, 1, 4), (279, 4, 1, len(pixels))),
        (284, 3, 1, planes),
    ]
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start) + pixels
    content += struct.pack(order + "H", bits) * channels + struct.pack(order + "H", len(fields))
    for tag, kind, count, entry in fields:
        inline = kind == 3 and count == 1
        content += struct.pack(order + ("HHIHxx" if inline else "HHII"), tag, kind, count, entry)
    return content + bytes(4)


def _wide(value: int, kind: str = "PNG", mode: str = "I;16", **options: Any) -> bytes:
    return _content(_plain(mode, value), kind, **options)


FILLED: dict[str, tuple[Callable[[], bytes], int, int]] = {  # file, setting `bits`, value of every pixel
    "16 of 16": (lambda: _wide(65535), 16, 255),
    "12 of 16": (lambda: _wide(4095), 12, 255),
    "12 of 16, half": (lambda: _wide(2048), 12, 128),
    "10 of 16": (lambda: _wide(1023), 10, 255),
    "14 of 16": (lambda: _wide(8192), 14, 128),
    "8 of 16": (lambda: _wide(77), 8, 77),
    "above": (lambda: _wide(5000), 12, 255),
    "12 of 16, TIFF": (lambda: _tiff16(2048), 12, 128),
    "12 of 16, TIFF, big-endian": (lambda: _tiff16(2048, order=">"), 12, 128),
    "12 of 16, TIFF, packed": (lambda: _wide(2048, "TIFF", compression="tiff_lzw"), 12, 128),
    "12 of 16, TIFF, packed, big-endian": (
        lambda: _wide(2048, "TIFF", "I;16B", compression="tiff_adobe_deflate"),
        12,
        128,
    ),
    "12 of 12, TIFF": (lambda: _tiff16(2048, bits=12), 12, 128),
    "white is zero": (lambda: _tiff16(257 * 200, white_is_zero=True), 16, 55),
    "12 of 16, white is zero": (lambda: _tiff16(4095, white_is_zero=True), 12, 0),
    "8 bits": (lambda: _content(_plain("L", 77)), 12, 77),
    "colour of 8 bits": (lambda: _content(_plain("RGB", (77, 77, 77))), 12, 77),
    "colour of 16 bits, PNG": (lambda: _png16(256 * 200 + 255, 3), 16, 200),  # rounded down: Pillow reads 8 bits
    "colour of 16 bits, TIFF": (lambda: _tiff16(256 * 200, 3), 16, 200),
    "colour of 16 bits, TIFF, big-endian": (lambda: _tiff16(256 * 200, 3, order=">"), 16, 200),
    "colour of 16 bits, opaque": (lambda: _png16(256 * 200, 4, 65535), 16, 200),
    "grey of 16 bits, transparent": (lambda: _png16(256 * 200, 2, 0), 16, 255),
}


@pytest.mark.parametrize("kind", FILLED)
def test_values_of_16_bits_are_scaled_from_those_that_they_fill(kind: str, root: Path) -> None:
    make, bits, value = FILLED[kind]
    (root / "a.png").write_bytes(make())
    for shape in (GREY, RGB):
        result = image_folder.read(root, shape, fit="crop", bits=bits, scratch=root.parent, workers=1)
        assert set(result.images.flat) == {value}


@pytest.mark.parametrize("bits", range(8, 17))
def test_every_value_goes_to_the_nearest(bits: int) -> None:
    values = np.arange(2**bits)
    assert image_folder._to_eight(bits)[: 2**bits] == np.rint(values * (255 / (2**bits - 1))).astype(int).tolist()
    assert set(image_folder._to_eight(bits)[2**bits :]) <= {255}


DARK: dict[str, tuple[list[Callable[[], bytes]], str]] = {
    "12 bits": ([lambda: _wide(4095), lambda: _wide(7)], "2 in all, is dark: .* 4095 of 65535; set bits to 12,"),
    "10 bits": ([lambda: _wide(1023)], "1 in all, .* 1023 of 65535; set bits to 10,"),
    "14 bits": ([lambda: _wide(10_000)], "set bits to 14,"),
    "a mask": ([lambda: _wide(3)], "set bits to 8,"),
    "nothing": ([lambda: _wide(0)], "0 of 65535; set bits to 8,"),
    "TIFF": ([lambda: _tiff16(4000, order=">")], "set bits to 12,"),
    "12 bits, TIFF": ([lambda: _tiff16(4095, bits=12)], "set bits to 12,"),
    "beside 8 bits": ([lambda: _wide(4095), lambda: _content(_plain("L", 255))], "1 in all, .* set bits to 12,"),
    "colour": ([lambda: _png16(4095, 3)], "4095 of 65535; only the upper 8 of 16 bits per colour channel can be"),
    "colour, opaque": ([lambda: _png16(4095, 4, 65535)], "save the images with 8 bits$"),
    "colour, TIFF": ([lambda: _tiff16(4095, 3)], "save the images with 8 bits$"),
}


@pytest.mark.parametrize("kind", DARK)
def test_dark_images_of_16_bits_are_not_taken_for_black(kind: str, root: Path) -> None:
    files, message = DARK[kind]
    for number, make in enumerate(files):
        (root / f"{number}.png").write_bytes(make())
    with pytest.raises(UserError, match=f"every 16-bit image in .*root, .*{message}"):
        _read(root)
    (root / "bright.png").write_bytes(_wide(2**15))
    assert len(_read(root)[1]) == len(files) + 1


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([_wide(2**15 - 1)], "set bits to 15,"),
        ([_wide(2**14), _wide(9)], "set bits to 15,"),
        ([_wide(4095), *[_content(_plain("L", 255))] * 2], "set bits to 12,"),
    ],
)
def test_what_may_be_a_dark_picture_is_read_and_told(files: list[bytes], said: str, root: Path) -> None:
    for number, content in enumerate(files):
        (root / f"{number}.png").write_bytes(content)
    found = image_folder.read(root, GREY, fit="crop", scratch=root.parent, workers=1)
    assert len(found.images) == len(files)
    assert any(said in note for note in found.notes)


def test_the_message_names_the_key_that_the_user_has(root: Path) -> None:
    (root / "a.png").write_bytes(_wide(4095))
    with pytest.raises(UserError, match=r"set dataset\.folders\.x\.bits to 12, the bits that the values use$"):
        image_folder.read(root, GREY, fit="crop", key="dataset.folders.x.bits", scratch=root.parent, workers=1)


def test_what_pillow_does_not_have_of_16_bits_is_said(root: Path) -> None:
    (root / "a.png").write_bytes(_png16(4095, 3))
    (root / "b.png").write_bytes(_wide(5000))
    (root / "c.tif").write_bytes(_tiff16(4095, 3, planes=2))
    (root / "d.tif").write_bytes(_tiff16(4095, bits=14))
    result = image_folder.read(root, GREY, fit="crop", bits=12, scratch=root.parent, workers=1)
    assert result.left_out == [
        LeftOut("a.png", "has 16 bits per channel, of which only the upper 8 can be read: save it with 8 bits"),
        LeftOut("c.tif", "stores its 16-bit channels one after the other, which cannot be read"),
        LeftOut("d.tif", NOT_AN_IMAGE),
    ]
    assert result.notes == ["values above 4095 are white: up to 5000 in 1 of the 16-bit images"]
    (root / "bright.png").write_bytes(_png16(65535, 3))
    assert _read(root)[0].notes == ["only the upper 8 of 16 bits per colour channel are read, in 2 of the images"]


LAYOUTS: dict[str, tuple[str, dict[str, int], list[str]]] = {  # paths, images of each class, parts of the notes
    "classes": ("a/1 a/2 b/1 b/2", {"a": 2, "b": 2}, []),
    "classes and more": ("a/1 a/x/2 b/y/1 b/2 3 4", {"": 2, "a": 2, "b": 2}, []),
    "one class": ("a/1 a/2", {"a": 2}, []),
    "one class, deep": ("a/b/1 a/b/2", {"a": 2}, []),
    "one class with subfolders": ("a/1 a/b/2", {"a": 2}, []),
    "wrapped": ("w/a/1 w/a/2 w/b/1 w/b/2", {"a": 2, "b": 2}, ["are in w:"]),
    "wrapped twice": ("v/w/a/1 v/w/a/2 v/w/b/1 v/w/b/2", {"a": 2, "b": 2}, ["are in v/w:"]),
    "split": ("train/dog/1 val/cat/1 test/dog/2 test/cat/2", {"cat": 2, "dog": 2}, ["split, test, train, val, is not"]),
    "split, in other words": ("Training/dog/1 VALID/dog/2", {"dog": 2}, ["own split, Training, VALID,"]),
    "split, in full words": ("validation/a/1 testing/a/2", {"a": 2}, ["own split"]),
    "split and wrapped": ("w/train/a/1 w/train/b/1 w/test/a/2 w/test/b/2", {"a": 2, "b": 2}, ["in w:", "own split"]),
    "split, wrapped inside": (
        "train/images/a/1 train/images/b/1 test/images/a/2 test/images/b/2",
        {"a": 2, "b": 2},
        ["own split", "are in images:"],
    ),
    "split without classes": ("train/1 train/2 test/3", {"": 3}, ["own split"]),
    "split, the test without classes": ("train/a/1 train/a/2 test/3 test/4", {"": 2, "a": 2}, ["own split"]),
    "split, a preview beside": ("train/a/1 test/a/2 3 4", {"": 2, "a": 2}, ["own split"]),
    "the training alone": ("train/a/1 train/a/2 train/b/3 train/b/4", {"a": 2, "b": 2}, ["are in train:"]),
    "trains and cars": ("train/1 train/2 car/1 car/2", {"car": 2, "train": 2}, []),
    "a split and more": (
        "train/1 train/2 test/1 test/2 spare/1 spare/2",
        {"spare": 2, "test": 2, "train": 2},
        ["test, train count as classes"],
    ),
    "splits below classes": ("a/train/1 a/test/2 b/train/1 b/test/2", {"a": 2, "b": 2}, []),
    "names that begin alike": ("ab/1 ab/2 abc/1 abc/2", {"ab": 2, "abc": 2}, []),
    "one image each": ("a/1 b/1 c/1", {"a": 1, "b": 1, "c": 1}, ["each of the 3 classes has one image"]),
    "lonely": ("a/1 a/2 b/1 b/2 c/1", {"a": 2, "b": 2, "c": 1}, ["classes with one image: 1 of 3, such as c"]),
    "one image": ("a/1", {"a": 1}, []),
    "many": (" ".join(f"{n}/{k}" for n in range(201) for k in "ab"), {}, ["there are 201 classes"]),
    "not so many": (" ".join(f"{n}/{k}" for n in range(200) for k in "ab"), {}, []),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_classes_by_layout(layout: str, root: Path) -> None:
    names, counts, notes = LAYOUTS[layout]
    for name in names.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_content(_plain("L", 0, (1, 1))))
    (root / "labels.csv").write_text("1, a")
    (root / "other").mkdir()
    (root / "other" / "README.md").write_text("no image")
    result, _ = _read(root, (1, 1, 1))
    assert not counts or result.counts == counts
    assert list(result.counts) == result.classes == sorted(result.classes)
    assert np.bincount(result.labels).tolist() == list(result.counts.values())
    assert len(result.notes) == len(notes)
    for note, part in zip(result.notes, notes, strict=True):
        assert part in note


METADATA: dict[str, Callable[[bytes], bytes]] = {
    "profile": lambda content: _chunk(b"iCCP", b"icc\0\0" + zlib.compress(content)),
    "text": lambda content: _chunk(b"zTXt", b"workflow\0\0" + zlib.compress(content)),
    "UTF-8": lambda content: _chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(content)),
    "XMP": lambda content: _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(content)),
}


def _with_chunk(chunk: bytes) -> bytes:
    png = _content(_plain("L", 77))
    return png[:33] + chunk + png[33:]


@pytest.mark.parametrize("kind", METADATA)
def test_much_text_or_a_large_profile_harms_no_image(kind: str, root: Path) -> None:
    for mebibytes in (2, 15):
        (root / f"{mebibytes}.png").write_bytes(_with_chunk(METADATA[kind](b"a" * (mebibytes << 20))))
    result, images = _read(root)
    assert result.left_out == []
    assert (images == 77).all()


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_that_would_fill_the_memory_are_not_unpacked(kind: str, root: Path) -> None:
    (root / "good.png").write_bytes(_content(_plain("L", 77)))
    (root / "bomb.png").write_bytes(_with_chunk(METADATA[kind](b"a" * (100 << 20))))
    (root / "many.png").write_bytes(_with_chunk(METADATA[kind](b"a" * (15 << 20)) * 8))
    tracemalloc.start()
    result, _ = _read(root)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reason = "has more than the 16 MiB of text or colour profile allowed"
    assert LeftOut("bomb.png", reason) in result.left_out
    assert peak < 200 << 20


def test_order_is_that_of_the_paths_and_classes_are_subfolders(root: Path) -> None:
    for value, name in enumerate(["B/z.png", "a/2.png", "a/10.png", "a/deep/er/x.png", "é/1", "top.png", "a-/1.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_content(_plain("L", value)))
    (root / "bad").mkdir()
    (root / "bad" / "text.png").write_bytes(b"text")
    result, images = _read(root)
    assert images[:, 0, 0, 0].tolist() == [0, 6, 2, 1, 3, 5, 4]
    assert result.classes == ["", "B", "a", "a-", "é"]
    assert result.labels.tolist() == [1, 3, 2, 2, 2, 0, 4]
    assert result.labels.dtype == np.uint8
    assert result.left_out == [LeftOut("bad/text.png", NOT_AN_IMAGE)]


def test_without_subfolders_there_is_one_class(root: Path) -> None:
    for name in ("a", "b"):
        (root / name).write_bytes(_content(_plain("L", 0)))
    result, _ = _read(root)
    assert result.classes == [""]
    assert result.labels.tolist() == [0, 0]


def test_many_classes_need_larger_labels(root: Path) -> None:
    for number in range(300):
        (root / f"{number:03}").mkdir()
        (root / f"{number:03}" / "x.png").write_bytes(_content(_plain("L", 0, (1, 1))))
    result, _ = _read(root, (1, 1, 1))
    assert result.labels.dtype == np.uint16
    assert result.labels.tolist() == list(range(300))


LITTER = [
    *(".hidden.png", ".folder/x.png", "a/.cache/x.png", ".DS_Store", "._a.png", "a/.ipynb_checkpoints/a.png"),
    *(".a.png.swp", "a.png.swp", "a.swo", "a.png~", "Thumbs.db", "thumbs.DB", "ehthumbs.db", "ehthumbs_vista.db"),
    *("Desktop.ini", "Icon\r", "__MACOSX/x.png", "$RECYCLE.BIN/x.png", "System Volume Information/x.png"),
    *("@eaDir/x.png", "lost+found/x.png"),
]


def test_what_systems_leave_behind_is_not_looked_at(root: Path) -> None:
    for name in (*LITTER, "a/seen.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_content(_plain("L", 0)))
    assert image_folder.listed(root) == (["a/seen.png"], [])


@pytest.mark.parametrize("name", ["thumbs.png", "a.swp.png", "desktop.ini.png", "macosx/a.png", "a~.png", "~a.png"])
def test_what_is_only_named_alike_is_looked_at(name: str, root: Path) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(b"")
    assert image_folder.listed(root) == ([name], [])


def test_only_images_count_as_broken(root: Path) -> None:
    """An image that cannot be used counts as broken, a table beside the images does not."""
    (root / "good.png").write_bytes(_content(_plain("L", 77)))
    no_images = ("labels.csv", "README.txt", "annotations.json", "video.mp4", "LICENSE", "empty", "model.pt")
    for name in no_images:
        (root / name).write_bytes(b"" if name == "empty" else b"\0\0\0\x18ftypmp42")
    images = ("a.png", "b.JPG", "c.jpeg", "d.tif", "e.gif", "f.HEIC", "g.dcm", "half", "bomb.bin")
    for name in images:
        (root / name).write_bytes(b"GIF89a")
    (root / "half").write_bytes(_half(_content(_noise((40, 40)))))
    (root / "bomb.bin").write_bytes(_bomb(10_001))
    (root / "away.csv").symlink_to("nothing")
    (root / "away.png").symlink_to("nothing")
    left_out = _read(root)[0].left_out
    assert {each.path for each in left_out if each.broken} == {*images, "away.png"}
    assert {each.path for each in left_out if not each.broken} == {*no_images, "away.csv"}


def test_a_hidden_folder_above_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / ".data" / "root").mkdir(parents=True)
    (tmp_path / ".data" / "root" / "a.png").write_bytes(_content(_plain("L", 0)))
    assert len(_read(tmp_path / ".data" / "root")[1]) == 1


def test_links_are_followed_wherever_they_lead(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    for place, value in ((outside / "a.png", 1), (outside / "deep/b.png", 2), (root / "image.png", 3)):
        place.write_bytes(_content(_plain("L", value)))
    (outside / "deep/up").symlink_to("..")
    (root / "a.png").symlink_to("image.png")
    (root / "b.png").symlink_to(outside / "a.png")
    (root / "c.png").symlink_to("b.png")
    (root / "d").symlink_to(outside)
    result, images = _read(root)
    assert images[:, 0, 0, 0].tolist() == [3, 1, 1, 1, 2, 3]
    assert result.counts == {"": 4, "d": 2}
    assert result.left_out == [LeftOut("d/deep/up", "is a link to a folder that contains it")]


LINKS: dict[str, tuple[str, str]] = {  # target of the link, reason to leave the link out
    "nothing.png": ("gone.png", "is a link to nothing"),
    "chain.png": ("nothing.png", "is a link to nothing"),
    "absolute.png": ("/nowhere/gone.png", "is a link to nothing"),
    "self.png": ("self.png", "is a link that leads back to itself"),
    "ring-a.png": ("ring-b.png", "is a link that leads back to itself"),
    "ring-b.png": ("ring-a.png", "is a link that leads back to itself"),
    "through.png": ("good.png/a.png", "cannot be read (Not a directory)"),
    "device.png": ("/dev/zero", "is neither a file nor a folder"),
    "pipe.png": ("../pipe", "is neither a file nor a folder"),
    "here": (".", "is a link to a folder that contains it"),
    "above": ("..", "is a link to a folder that contains it"),
    "top": ("/", "is a link to a folder that contains it"),
    "again": ("folder", "leads to a folder that was already read"),
    "folder/around": ("../folder", "is a link to a folder that contains it"),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_that_lead_to_no_image_are_left_out(name: str, root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (root / "folder").mkdir()
    for place in ("good.png", "folder/good.png"):
        (root / place).write_bytes(_content(_plain("L", 0)))
    for each in {name, "nothing.png", "ring-a.png", "ring-b.png"}:
        (root / each).symlink_to(LINKS[each][0])
    result, _ = _read(root)
    assert len(result.labels) == 2
    assert LeftOut(name, LINKS[name][1]) in result.left_out
    assert len(result.left_out) == len({name, "nothing.png", "ring-a.png", "ring-b.png"})


def test_every_folder_is_entered_once(root: Path, tmp_path: Path) -> None:
    """Links that fork at 30 levels lead to one image, not to 2³⁰, so no image is in two splits."""
    for level in range(30):
        (tmp_path / f"{level}").mkdir()
        for side in "ab":
            (tmp_path / f"{level}" / side).symlink_to(tmp_path / f"{level + 1}")
    (tmp_path / "30").mkdir()
    (tmp_path / "30" / "a.png").write_bytes(_content(_plain("L", 0)))
    (root / "start").symlink_to(tmp_path / "0")
    files, left_out = image_folder.listed(root)
    assert files == ["start/" + "a/" * 30 + "a.png"]
    assert [each.reason for each in left_out] == ["leads to a folder that was already read"] * 30


def test_a_folder_is_read_by_its_own_path_rather_than_a_links(root: Path) -> None:
    (root / "b").mkdir()
    (root / "b" / "x.png").write_bytes(b"")
    (root / "a").symlink_to("b")
    assert image_folder.listed(root) == (["b/x.png"], [LeftOut("a", "leads to a folder that was already read")])


def test_pipes_are_not_waited_for(root: Path) -> None:
    (root / "a.png").write_bytes(_content(_plain("L", 0)))
    os.mkfifo(root / "pipe.png")
    result, _ = _read(root)
    assert result.left_out == [LeftOut("pipe.png", "is neither a file nor a folder")]


@pytest.mark.parametrize("denied", ["a", "b.png", ""])
def test_what_may_not_be_read_is_left_out(denied: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root user may read every file, so the test fakes the refusal."""
    (root / "a").mkdir()
    for name in ("a/x.png", "b.png"):
        (root / name).write_bytes(_content(_plain("L", 0)))

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Path, *arguments: Any, **options: Any) -> Any:
            if Path(path) == root / denied:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *arguments, **options)

        return called

    monkeypatch.setattr(os, "scandir", refusing(os.scandir))
    monkeypatch.setattr(Path, "open", refusing(Path.open))
    if denied:
        result, _ = _read(root)
        assert result.left_out == [LeftOut(denied, "cannot be read (Permission denied)")]
        assert result.left_out[0].broken
    else:
        with pytest.raises(UserError, match=r"such as \., which cannot be read \(Permission denied\)"):
            _read(root)


def test_the_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (root / "image.png").write_bytes(_content(_plain("L", 2)))
    (tmp_path / "link").symlink_to(root)
    result, images = _read(tmp_path / "link")
    assert len(images) == 1
    assert result.left_out == []


def test_names_that_are_no_text_can_be_shown(root: Path) -> None:
    os.mkdir(os.fsencode(root) + b"/\xff")  # noqa: PTH102 - a Path holds no bytes
    Path(os.fsdecode(os.fsencode(root) + b"/\xff/a.png")).write_bytes(_content(_plain("L", 2)))
    Path(os.fsdecode(os.fsencode(root) + b"/\xff/b.png")).write_bytes(b"")
    result, _ = _read(root)
    assert result.classes == ["\\xff"]
    assert result.left_out == [LeftOut("\\xff/b.png", "is empty")]


def test_the_same_bytes_every_time_whatever_the_number_of_workers(root: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(50):
        width, height = rng.integers(1, 200, 2).tolist()
        kind = ["PNG", "JPEG", "WEBP", "BMP", "TIFF"][number % 5]
        (root / f"{number % 3}-{number}").write_bytes(_content(_noise((width, height), number), kind))
        (root / f"{number % 4}-text").write_bytes(b"text")
    read = [_read(root, RGB, "pad", workers) for workers in (1, 1, 2, 7)]
    assert len(read[0][1]) == 50
    for result, images in read[1:]:
        assert np.array_equal(images, read[0][1])
        assert result.left_out == read[0][0].left_out


def test_strange_bytes_never_raise(root: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        content = _content(_noise((30, 20)), kind)
        for number in range(100):
            strange = bytearray(content)
            strange[rng.integers(len(content) if number % 2 else 100)] = rng.integers(256)
            (root / f"{kind}-{number}").write_bytes(strange[: None if number % 3 else rng.integers(len(content))])
    (root / "good").write_bytes(_content(_plain("L", 77)))
    result, images = _read(root, workers=2)
    assert len(images) + len(result.left_out) == 501
    assert (images[-1] == 77).all()
    assert all(0 < len(each.reason) < 200 and "\n" not in each.reason for each in result.left_out)


def test_images_that_wait_are_few() -> None:
    """Only a limited number of images wait for the first image. Each finished image lets one more follow."""
    taken: list[str] = []

    def files() -> Iterator[str]:
        for number in range(200):
            taken.append(str(number))
            yield taken[-1]

    found = []
    for image in image_folder._in_order(lambda file: file, files(), workers=2):
        found.append(image)
        assert len(taken) == min(2 * image_folder.AHEAD + len(found), 200)
    assert found == taken


def test_nothing_global_changes(root: Path) -> None:
    (root / "a.png").write_bytes(_bomb(13_000))
    (root / "b.png").write_bytes(_content(_plain("L", 77)))
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters), TiffImagePlugin.READ_LIBTIFF
    _read(root, workers=2)
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters), TiffImagePlugin.READ_LIBTIFF) == before


def test_a_file_that_vanishes_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a.png").write_bytes(_content(_plain("L", 77)))
    monkeypatch.setattr(image_folder, "listed", lambda _: (["a.png", "b.png"], []))
    assert _read(root)[0].left_out == [LeftOut("b.png", "cannot be read (No such file or directory)")]


def test_folders_without_images_are_the_users_mistake(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dead").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    for place, message in [
        (tmp_path / "none", "does not exist"),
        (tmp_path / "file", "is a file, not a folder"),
        (tmp_path / "file" / "below", r"cannot be read \(Not a directory\)"),
        (tmp_path / "a\0b", "does not exist"),
        (tmp_path / ("x" * 300), r"cannot be read \(File name too long\)"),
        (tmp_path / "dead", "is a link to nothing"),
        (tmp_path / "loop", "is a link that leads back to itself"),
        (root, "no image could be read from the folder .*/root: 0 files were left out$"),
    ]:
        with pytest.raises(UserError, match=message):
            _read(place)
    (root / "b.txt").write_bytes(b"text")
    (root / "a.txt").write_bytes(b"")
    with pytest.raises(UserError, match=r"root: 2 files were left out, such as a\.txt, which is empty$"):
        _read(root)


def test_nothing_is_left_beside_the_images(root: Path, tmp_path: Path) -> None:
    (root / "a.png").write_bytes(_content(_plain("L", 77)))
    _, images = _read(root)
    assert list(tmp_path.iterdir()) == [root]
    assert (images == 77).all()
