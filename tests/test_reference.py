"""What is made from the code is what the code says now: the pages of docs/, and the schema of params.yaml."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoencoders.base import VARIANTS
from autoencoders.parts import Kind, keys_of
from pipeline import params, recipe, reference, schema
from tests.jsonschema import problems
from tests.test_params import BROKEN, DEFAULT, REPOSITORY, with_value, without

SCHEMA: dict[str, Any] = json.loads((REPOSITORY / "params.schema.json").read_text(encoding="utf-8"))
FILES = [str(path) for path, _ in reference.pages()]
# What a schema cannot say: combinations, this machine, names that params.yaml itself defines, names no shell may see.
BEYOND = (
    "cannot be built", "holds other images", "letters, digits", "the name of a corruption", "only once", "has to see",
    "at most 12 levels", "must be clean", "is nan", "is inf", "letters, digits, - and _",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("name", FILES)
def test_a_page_is_up_to_date(name: str) -> None:
    """After a change: python -m pipeline.reference"""
    text = dict(reference.pages())[Path(name)]()
    assert (REPOSITORY / name).read_text(encoding="utf-8") == text


def test_a_stale_page_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(reference, "pages", lambda: [(page, lambda: "new\n")])
    page.write_text("old\n")
    with pytest.raises(SystemExit, match=r"out of date: .*page\.md"):
        reference.main(check=True)
    assert page.read_text() == "old\n"
    reference.main(check=False)
    assert page.read_text() == "new\n"
    reference.main(check=True)


def test_a_command_is_shown_as_it_helps_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.recipe", "--help"],
        capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    section = reference.commands().split("### `python -m pipeline.recipe`")[1].split("###")[0]
    for name, what in re.findall(r"^\| `(?:--)?(\w+)[^`]*` \| ([^.|]*)", section, re.MULTILINE):
        assert name in done.stdout
        assert what in " ".join(done.stdout.split())


def test_every_program_of_the_pipeline_is_shown() -> None:
    programs = {path.stem for path in Path("pipeline").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert {f"python -m pipeline.{name}" for name in programs} <= set(reference.COMMANDS)


def wrong(content: object) -> list[str]:
    return list(problems(content, SCHEMA, SCHEMA))


def test_the_default_fits_the_schema() -> None:
    assert wrong(DEFAULT) == []


def test_params_yaml_names_its_schema() -> None:
    first = (REPOSITORY / "params.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=params.schema.json"


@pytest.mark.parametrize("name", recipe.available())
def test_what_a_recipe_makes_of_it_fits_too(name: str) -> None:
    assert wrong(recipe.load(name, DEFAULT)[1]) == []


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (with_value("training.step", 5), ".training.step is unknown"),
        (with_value("variants.vae.betta", 1), ".variants.vae.betta is unknown"),
        (with_value("variants.vqvae.quantizer.levels", [8]), ".variants.vqvae.quantizer.levels is unknown"),
        (without("variants.vqvae.beta"), ".variants.vqvae.beta is missing"),
        (with_value("variants.vae.network", "patches"), ".variants.vae.network is no object"),
        (with_value("variants.vae.prior", "mixture"), ".variants.vae.prior fits none of the alternatives"),
    ],
)
def test_a_mistake_is_found(content: object, where: str) -> None:
    assert where in wrong(content)


@pytest.mark.parametrize("content", [
    content for content, *sentence in BROKEN if not any(beyond in " ".join(sentence) for beyond in BEYOND)
])  # fmt: skip
def test_the_schema_finds_what_the_check_finds(content: object) -> None:
    assert wrong(content)


def test_every_key_has_a_meaning() -> None:
    comments = schema.meanings()
    kinds: dict[str, Kind[Any]] = {"entry": VARIANTS, **schema.KINDS}
    keys = [(title, name, key.name) for title, kind in kinds.items() for name in kind.available()
            for key in keys_of(kind.find(name))]  # fmt: skip
    assert [key for key in keys if not schema.meaning_of_key(comments, *key)] == []
    rows = (REPOSITORY / "docs/parameters.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row.startswith("| `") and row.endswith("|  |")] == []


def test_no_meaning_is_left_over() -> None:
    kinds: list[Kind[Any]] = [VARIANTS, *schema.KINDS.values()]
    assert {name.rpartition(".")[2] for name in schema.WITHOUT_COMMENT} <= {
        key.name for kind in kinds for name in kind.available()
        for key in keys_of(kind.find(name))
    }  # fmt: skip


def test_a_comment_belongs_to_its_key() -> None:
    text = (
        "# Head\n\n# Above,\n# on two lines.\na:  # of a\n  b: 1  # of b\n         #   and more\n  c: 2\n"
        "# no key's\n\nd: 3\n"
    )
    assert schema.meanings(text) == {"a": "Above, on two lines. of a", "a.b": "of b and more"}


def test_the_schema_is_that_of_the_entries_that_are_checked() -> None:
    """A part's own keys, made a class here and in `params.check`, are one set."""
    entry = params.check(DEFAULT).entry("vqvae")
    assert set(SCHEMA["$defs"]["entry-vqvae"]["properties"]) == set(type(entry).model_fields)
