"""The SHA-256 of a folder's files in `SHA256SUMS`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aelab.core import disk
from aelab.core.errors import DamagedFile

DAMAGE: dict[str, Callable[[Path], object]] = {
    "a is missing": lambda folder: (folder / "a").unlink(),
    "b does not have the SHA-256 that it was written with": lambda folder: (folder / "b").write_text("x"),
    "c is not in SHA256SUMS": lambda folder: (folder / "c").write_text("new"),
}


@pytest.mark.parametrize("sentence", DAMAGE)
def test_a_damaged_folder_is_named_with_its_damage(sentence: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    disk.seal(tmp_path)
    disk.check(tmp_path)
    DAMAGE[sentence](tmp_path)
    with pytest.raises(DamagedFile, match=f"{tmp_path}/{sentence}"):
        disk.check(tmp_path)
