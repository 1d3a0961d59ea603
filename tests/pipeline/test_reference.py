"""Generated files are up to date: the pages of docs/ and the schema of params.yaml."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from pipeline.common import params
from pipeline.tools import recipe, reference
from tests.support.parameters import BROKEN, DEFAULT, with_value, without
from tests.support.project import REPOSITORY

SCHEMA: dict[str, Any] = json.loads((REPOSITORY / "params.schema.json").read_text(encoding="utf-8"))
# Problems that a schema cannot express: combinations of keys, this machine, names that params.yaml defines, unsafe
# names.
BEYOND = (
    "cannot be built", "holds other images", "letters, digits", "the name of a corruption", "only once", "has to see",
    "at most 12 levels", "must be clean", "is nan", "is inf", "letters, digits, - and _", "is made of",
    "dataset.name is", 'dataset.anomalies is "', "photos.path is", "take another name",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("page", reference.PAGES)
def test_a_page_is_up_to_date(page: Path) -> None:
    """After a change, run `python -m pipeline.tools.reference`."""
    assert page.read_text(encoding="utf-8") == reference.PAGES[page]()


@pytest.mark.parametrize("name", recipe.STUDY)
def test_what_the_page_of_quantisers_says_is_what_the_recipes_found(name: str) -> None:
    """The page's sentences must hold for each result; if a new result contradicts one, the sentence must go."""
    result = json.loads((REPOSITORY / f"recipes/results/{name}.json").read_text(encoding="utf-8"))
    means = {(each["metric"], each["entry"]): each["mean"] for each in result["figures"]}
    psnr, active, rate, kept = (
        {entry: mean for (metric, entry), mean in means.items() if metric == wanted}
        for wanted in ("psnr", "codes_active", "rate", "class_kept")
    )
    used = [entry for entry, share in active.items() if share > 80]
    (lead,) = (
        each for each in result["claims"]["quantisers"]["findings"]
        if each["text"].startswith("PSNR") and " ema " in each["text"] and " rotation-ema " in each["text"]
    )  # fmt: skip
    assert lead["verdict"] == "undecided"
    assert active["straight-through"] < 50 < active["restarts"]
    assert psnr["straight-through"] < psnr["restarts"]
    assert active["fsq-plain"] < 80
    assert active["fsq"] > 99
    assert psnr["fsq-plain"] < psnr["fsq"]
    assert rate["straight-through"] < rate["ema"]
    if name == "codebook-photographs":
        assert max(psnr, key=psnr.__getitem__) == "ema"
        assert not kept
    else:
        assert max(psnr, key=psnr.__getitem__) == "rotation-ema"
        assert active["bsq"] > 90
        assert min(used, key=psnr.__getitem__) == "bsq"
        assert min(kept.values()) > 90


@pytest.mark.parametrize("there", [(), recipe.STUDY[:1], recipe.STUDY[1:]])
def test_the_page_of_quantisers_says_nothing_of_results_that_are_missing(
    there: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in there:
        shutil.copy(recipe.RESULTS / f"{name}.json", tmp_path)
    monkeypatch.setattr(recipe, "RESULTS", tmp_path)
    page = recipe.study()
    assert "Findings" not in page
    assert page.count("| straight-through | ") == 1 + len(there)  # in the table of quantisers, and in each result


def test_a_stale_page_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(reference, "PAGES", {page: lambda: "new\n"})
    page.write_text("old\n")
    with pytest.raises(SystemExit, match=r"out of date: .*page\.md"):
        reference.main(check=True)
    assert page.read_text() == "old\n"
    reference.main(check=False)
    assert page.read_text() == "new\n"
    reference.main(check=True)


def test_a_command_is_shown_as_it_helps_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["recipe", "--help"])
    with pytest.raises(SystemExit):
        typer.run(recipe.main)
    said = capsys.readouterr().out
    section = reference.commands().split("### `python -m pipeline.tools.recipe`")[1].split("###")[0]
    shown = re.findall(r"^\* `(?:--)?(\w+)[^`]*`: ([^.\n]*)", section, re.MULTILINE)
    assert {"name", "quick"} <= {name for name, _ in shown}
    for name, what in shown:
        assert name in said
        assert what in " ".join(said.split())


def test_an_option_that_several_commands_share_stands_there_once() -> None:
    options = reference.OPTION.findall(page := reference.commands())
    assert len(options) == len(set(options)) > 10
    assert page.count("`-m, --model MODEL`") == 1
    assert not any("--help`" in option for option in options)


def test_a_command_is_shown_alike_whatever_was_parsed_before() -> None:
    """A parser keeps its first line's settings in its help, so each page has new parsers."""
    parsed, shown = (reference.programs()["aelab"].commands["sample"] for _ in range(2))
    parsed.make_context("sample", ["images.png", "--model", "models/vae"])
    assert parsed._help_option
    assert not shown._help_option


def test_every_program_with_options_is_shown() -> None:
    files = [path for path in Path("pipeline").rglob("*.py") if "typer.Option(" in path.read_text()]
    modules = {".".join(path.with_suffix("").parts) for path in files if path.parent.name != "stages"}
    shown = set(re.findall(r"^### `(.+)`$", reference.commands(), re.MULTILINE))
    assert shown == {"aelab"} | {f"python -m {each}" for each in modules}


def wrong(content: object) -> list[str]:
    """Return the messages that an editor would show."""
    errors = Draft202012Validator(SCHEMA).iter_errors(content)
    return [f"{each.json_path.removeprefix('$.')}: {each.message}" for error in errors for each in meant(error)]


def meant(error: ValidationError) -> Iterator[ValidationError]:
    """Yield, for a choice among models or parts, only the errors of the part that is named."""
    choices = [list(each) for _, each in groupby(error.context, lambda each: each.schema_path[0])]
    named = [each for each in choices if not any(inner.validator in {"const", "enum"} for inner in each)]
    for inner in named[0] if named else ():
        yield from meant(inner)
    if not named:
        yield error


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


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
        (with_value("training.step", 5), "training: Additional properties are not allowed ('step' was unexpected)"),
        (
            with_value("variants.vae.betta", 1),
            "variants.vae: Additional properties are not allowed ('betta' was unexpected",
        ),
        (with_value("variants.vqvae.quantizer.levels", [8]), "'levels' was unexpected"),
        (without("variants.vqvae.beta"), "variants.vqvae: 'beta' is a required property"),
        (with_value("variants.vae.network", "patches"), "variants.vae.network: 'patches' is not of type 'object'"),
        (with_value("variants.vae.prior", "mixture"), "variants.vae.prior: 'mixture' is not"),
    ],
)
def test_a_mistake_is_found(content: object, where: str) -> None:
    (said,) = wrong(content)
    assert where in said


@pytest.mark.parametrize("content", [
    content for content, *sentence in BROKEN if not any(beyond in " ".join(sentence) for beyond in BEYOND)
])  # fmt: skip
def test_the_schema_finds_what_the_check_finds(content: object) -> None:
    assert wrong(content)


def undescribed(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the keys of a JSON Schema without a description."""
    for name, section in {"": schema, **schema["$defs"]}.items():
        for key, each in section.get("properties", {}).items():
            if not each.get("description"):
                yield f"{name}.{key}"


def test_every_key_has_a_meaning() -> None:
    assert list(undescribed(SCHEMA)) == []
    keys = {"a": {"description": "the first letter"}, "b": {}}
    assert list(undescribed({"properties": keys, "$defs": {"c": {"properties": {"d": {}}}}})) == [".b", "c.d"]


def test_dvcs_run_cache_compares_every_key() -> None:
    sections = [SCHEMA, *SCHEMA["$defs"].values()]
    keys = {key for each in sections for key in each.get("properties", {})}
    assert {"resolution", "dimensions"} <= keys
    assert not keys & params.UNCOMPARED


def test_the_schema_is_that_of_the_entries_that_are_checked() -> None:
    entry = params.check(DEFAULT).entry("vqvae")
    assert set(SCHEMA["$defs"]["model-vqvae"]["properties"]) == set(type(entry).model_fields)
