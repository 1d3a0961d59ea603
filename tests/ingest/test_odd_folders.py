"""Random folders with odd content. The reader returns images or one sentence, for any number of workers."""

import io
import os
import random
from pathlib import Path

import numpy as np
from PIL import Image

from aelab.core.errors import UserError
from aelab.ingest import image_folder
from aelab.ingest.image_folder import Folder

FOLDERS = ["train", "val", "Test", "images", "w", "a", "b", "__MACOSX", "é", "\udce9", "\n", " ", "x" * 255, "..."]
LAYOUTS = [
    "",
    "",
    "a b",
    "train/a test/a",
    "Training/a valid/b",
    "w/a w/b",
    "v/w/a v/w/b",
    "w/train/a w/val",
    "a",
    "images train a",
]
FILES = [
    *("1.png", "2.JPG", "3.tif", "4", "5.gif", "6.png", "7.jpeg", "labels.csv", "README.md", "video.mp4", "Thumbs.db"),
    *(
        "._1.png",
        ".DS_Store",
        "2.png~",
        "caf\udce9.png",
        "\udcff\udcfe",
        "e\u0301.png",
        "é.png",
        "-rf",
        "$(x).png",
        "%s",
    ),
    *("a\nb.png", "a\tb.png", "\x1b[0m.png", "y" * 251 + ".png", "png", ".png", "..png", "a.png.", "a b.png", "*.png"),
]


def _file(kind: str, mode: str, colour: int) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (6, 5), colour).save(file, kind)
    return file.getvalue()


IMAGES = [_file(kind, "L", 77) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")]
IMAGES += [
    _file("PNG", "I;16", 4095),
    _file("TIFF", "I;16B", 60_000),
    _file("PNG", "I;16", 2**15),
    _file("TIFF", "F", 0),
]


def _content(rng: random.Random) -> bytes:
    image = rng.choice(IMAGES)
    odd = rng.choice([image] * 6 + [b"", b"text", image[: rng.randrange(len(image))], rng.randbytes(40)])
    if rng.random() < 0.1:
        place = rng.randrange(len(odd) + 1)
        odd = odd[:place] + rng.randbytes(1) + odd[place + 1 :]
    return odd


def _grown(place: Path, rng: random.Random) -> Path:
    """Make a random folder in `place`. Return its path, or sometimes the path of a link."""
    root = place / "root"
    folders = [place / "beside", root]
    for folder in folders:
        folder.mkdir(parents=True)
    for name in rng.choice(LAYOUTS).split():
        (root / name).mkdir(parents=True)
        folders.append(root / name)
        (root / name / "0.png").write_bytes(IMAGES[rng.randrange(6)])
    for _ in range(rng.randrange(12)):
        where = rng.choice(folders[1:] * 3 + folders)
        path = where / rng.choice(FOLDERS if rng.random() < 0.4 else FILES)
        if os.path.lexists(path) or len(str(path)) > 2000:
            continue
        kind = rng.choice(["folder"] * 3 + ["file"] * 6 + ["link"] * 4 + ["hard link", "pipe", "closed"])
        there = [each for each in place.rglob("*") if each.is_file() and not each.is_symlink()]
        if kind == "folder":
            path.mkdir()
            folders.append(path)
        elif kind == "link":
            near = [*folders, *there, path, where.parent, Path("/dev/null"), Path("/dev/zero"), place / "gone"]
            target = rng.choice(near)
            path.symlink_to(target if rng.random() < 0.5 else os.path.relpath(target, where))
        elif kind == "hard link" and there:
            path.hardlink_to(rng.choice(there))
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(_content(rng))
            path.chmod(0 if kind == "closed" else 0o600)
    link = place / "link"
    link.symlink_to(rng.choice([root, root, root, link, place / "gone"]))
    return rng.choice([root] * 8 + [link])


def _read(root: Path, scratch: Path, workers: int, bits: int) -> Folder | str:
    try:
        return image_folder.read(root, (3, 4, 4), fit="crop", bits=bits, scratch=scratch, workers=workers)
    except UserError as error:
        return str(error)


def _check_line(text: str) -> None:
    """Check that the text is printable and on one line, with any file names in it."""
    assert text.encode().decode() == text
    assert not any(character in text for character in "\n\r\t\x1b")


def test_odd_folders_are_images_or_a_sentence(tmp_path: Path) -> None:
    outcomes = []
    for seed in range(300):
        rng = random.Random(seed)
        root, bits = _grown(tmp_path / str(seed), rng), rng.choice([16, 16, 12])
        one, three = (_read(root, tmp_path, workers, bits) for workers in (1, 3))
        outcomes.append(type(one))
        if isinstance(one, str) or isinstance(three, str):
            assert one == three, seed
            _check_line(str(one))
            continue
        assert np.array_equal(one.images, three.images), seed
        assert one.labels.tolist() == three.labels.tolist(), seed
        assert (one.counts, one.left_out, one.notes) == (three.counts, three.left_out, three.notes), seed
        files, left_out = image_folder.listed(root)
        assert sum(one.counts.values()) == len(one.labels), seed
        assert len(one.labels) + len(one.left_out) == len(files) + len(left_out), seed
        for text in (*one.classes, *one.notes, *(each.path for each in one.left_out)):
            _check_line(text)
    assert outcomes.count(Folder) > 150
    assert outcomes.count(str) > 30
