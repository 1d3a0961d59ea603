"""Makes a folder of small colour crops of real photographs, for a trial of the pipeline on a folder of images.

    python -m benchmarks.photographs FOLDER [--count 2400] [--size 128]

The sources are 37 photographs from four Debian packages of wallpapers. Wallpapers that are drawings, gradients or logos
are left out. The packages' copyright files state the licences:

- lomiri-wallpapers-16.04: CC BY 4.0 or CC BY-SA 4.0, but CC0 1.0 for seeding_by_Clements_Engelhardt.jpg
- lomiri-wallpapers-20.04: CC BY-SA 3.0
- mate-backgrounds: GPL 2 or later
- plasma-workspace-wallpapers: GPL 2 or later

Each photograph is scaled down and cut into a grid of squares without overlap. All photographs have the same number of
squares along the shorter side: the smallest number that gives `count` squares in all. The same packages always give the
same pixels.

All crops are in one folder, without classes. The pipeline assigns each crop to a split at random. So crops of one
photograph are in the training split and in the test split. Test metrics then do not show how well a model handles new
photographs.
"""

import io
import itertools
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageOps

from aelab.core.errors import UserError

PHOTOGRAPHS = {  # package → path of a photograph in it, with {} for the name, and the names of the photographs
    "lomiri-wallpapers-16.04": (
        "usr/share/backgrounds/{}.jpg",
        """Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace
        Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi
        greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi
        seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi""",
    ),
    "lomiri-wallpapers-20.04": ("usr/share/backgrounds/{}.jpg", "Kleiber_by_Lukas_Baubkus"),
    "mate-backgrounds": (
        "usr/share/backgrounds/mate/nature/{}.jpg",
        "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower",
    ),
    "plasma-workspace-wallpapers": (
        "usr/share/wallpapers/{}/contents/images/2560x1600.jpg",
        "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path summer_1am",
    ),
}


def main(
    folder: Annotated[Path, typer.Argument(help="New or empty folder for the crops.")],
    count: Annotated[int, typer.Option(min=1)] = 2400,
    size: Annotated[int, typer.Option(min=1, help="Width and height in pixels.")] = 128,
) -> None:
    """Make a folder of crops of photographs."""
    try:
        made = make(folder, count, size)
    except UserError as error:
        sys.exit(str(error))
    print(f"{count} crops of {made} photographs are in {folder}")


def make(folder: Path, count: int, size: int) -> int:
    """Write `count` crops of size×size pixels as PNG files; return the number of photographs that they are from.

    Raises:
        UserError: `folder` is not empty, Debian's tools or packages are not available, or the photographs are too
            small for `count` crops.
    """
    if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        msg = f"{folder} is not empty"
        raise UserError(msg)
    files = dict(photographs())
    sizes = {name: Image.open(io.BytesIO(file)).size for name, file in files.items()}
    rows = _rows(sizes, count, size)
    grids = {name: _grid(each, rows) for name, each in sizes.items()}
    cells = [(name, row, column) for name, (a, b) in grids.items() for row in range(a) for column in range(b)]
    chosen = [cells[index * len(cells) // count] for index in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, group in itertools.groupby(chosen, key=lambda cell: cell[0]):
        height, width = (squares * size for squares in grids[name])
        image = Image.open(io.BytesIO(files[name])).convert("RGB")
        small = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
        for _, row, column in group:
            box = (column * size, row * size, (column + 1) * size, (row + 1) * size)
            small.crop(box).save(folder / f"{name}-{row:02}-{column:02}.png")
    return len({name for name, *_ in chosen})


def photographs() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the JPEG file of each photograph.

    Raises:
        UserError: Debian's tools or packages are not available.
    """
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        msg = f"the photographs are in Debian's packages, which need {' and '.join(missing)}: install these first"
        raise UserError(msg)
    for package, (place, names) in PHOTOGRAPHS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                archive = _content(package, Path(folder))
            except subprocess.SubprocessError as error:
                stderr = getattr(error, "stderr", None) or b""
                said = stderr.decode(errors="replace").strip().splitlines()[-1:] or [str(error)]
                msg = f"Debian's package {package} cannot be downloaded: {said[0]}"
                raise UserError(msg) from error
            with tarfile.open(archive) as members:
                for name in names.split():
                    try:
                        file = members.extractfile(f"./{place.format(name)}")
                    except KeyError as error:
                        msg = f"Debian's package {package} has no {place.format(name)}: it is from another release"
                        raise UserError(msg) from error
                    assert file is not None, name  # noqa: S101 - None for a link or a folder
                    yield name, file.read()


def _content(package: str, folder: Path) -> Path:
    """Download a package, without root rights, and return its files as a .tar file in the empty `folder`."""
    try:
        _command(["apt-get", "download", package], folder)
    except subprocess.CalledProcessError:
        # The system has no package lists, or its lists lack the package: download new lists into `folder`.
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        private = [f"-oDir::State::Lists={lists}", f"-oDir::Cache={folder}", "-oDebug::NoLocking=1"]
        _command(["apt-get", *private, "update"], folder)
        _command(["apt-get", *private, "download", package], folder)
    archive = folder / "content.tar"
    archive.write_bytes(_command(["dpkg-deb", "--fsys-tarfile", str(next(folder.glob("*.deb")))], folder))
    return archive


def _command(arguments: list[str], folder: Path) -> bytes:
    return subprocess.run(arguments, cwd=folder, check=True, timeout=600, capture_output=True).stdout  # noqa: S603


def _grid(size: tuple[int, int], rows: int) -> tuple[int, int]:
    """Return the rows and columns of a grid with `rows` squares along the shorter side of `size` (width, height)."""
    longer = int(max(size) / min(size) * rows)
    return (rows, longer) if size[0] >= size[1] else (longer, rows)


def _rows(sizes: dict[str, tuple[int, int]], count: int, size: int) -> int:
    """Return the smallest number of squares along the shorter sides that gives `count` squares in all photographs."""
    for rows in range(1, min(map(min, sizes.values())) // size + 1):
        if sum(a * b for a, b in (_grid(each, rows) for each in sizes.values())) >= count:
            return rows
    msg = f"the {len(sizes)} photographs are too small for {count} crops of {size}×{size} pixels"
    raise UserError(msg)


if __name__ == "__main__":
    typer.run(main)
