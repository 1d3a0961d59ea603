"""Parts are files of a package: how a registry finds them, and its message about a part that cannot be used."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aelab import networks
from aelab.core.errors import UserError
from aelab.models.network import NETWORKS
from pipeline.common import params, sections
from tests.support.parameters import with_value

SHARED = """
from aelab.models.network import Network

class Shared(Network):
    \"\"\"Code that two networks share.\"\"\"
"""
UNTYPED = """
from aelab.models.network import Network

class Untyped(Network):
    \"\"\"A network whose `width` has no type.\"\"\"

    def __init__(self, image, *, width):
        super().__init__(image)
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Second folder of networks, first on the path of the package."""
    for path in NETWORKS.folder.glob("[a-z]*.py"):
        NETWORKS.find(path.stem)  # imports the original, so that no other test gets the copy
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(networks, "__path__", [str(tmp_path), *networks.__path__])
    sections.entries_type.cache_clear()
    yield tmp_path
    sections.entries_type.cache_clear()


def test_a_file_is_a_part_unless_its_name_begins_with_an_underscore(folder: Path) -> None:
    known = NETWORKS.available()
    assert {"conv", "mlp", "patches"} <= set(known)
    (folder / "_shared.py").write_text(SHARED)
    assert NETWORKS.available() == known
    with pytest.raises(LookupError, match="unknown network '_shared'"):
        NETWORKS.find("_shared")
    (folder / "shared.py").write_text(SHARED)  # without the underscore, the file is a part
    assert NETWORKS.available() == sorted([*known, "shared"])


@pytest.mark.parametrize("working", [[], ["patches"]])
def test_one_part_that_can_be_used_is_enough_and_none_is_a_sentence(
    working: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in set(NETWORKS.available()) - set(working):
        (folder / f"{name}.py").write_text("import nothing_of_that_name")
        monkeypatch.delitem(sys.modules, f"aelab.networks.{name}")
    if working:
        params.check(with_value("seeds", [0]))
    else:
        with pytest.raises(UserError, match=r"vae\.network\.name: src/aelab/networks/patches\.py cannot be used"):
            params.check(with_value("seeds", [0]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("class Broken:", "expected an indented block"),
        ("", "must define exactly one subclass of Network, not 0"),
        (UNTYPED, "give the constructor's argument width a type"),
    ],
)
def test_a_part_that_cannot_be_used_is_a_sentence_where_it_is_named_alone(
    text: str, sentence: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    name = f"broken{request.node.callspec.indices['text']}"  # a module is imported once
    (folder / f"{name}.py").write_text(text)
    params.check(with_value("seeds", [0]))
    with pytest.raises(UserError) as error:
        params.check(with_value("variants.vae.network", {"name": name}))
    (said,) = str(error.value).splitlines()
    assert said.startswith(f"params.yaml: variants.vae.network.name: src/aelab/networks/{name}.py cannot be used: ")
    assert sentence in said
