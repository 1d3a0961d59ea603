"""reference: write the pages of docs/ that can be read off the code, and the JSON Schema of params.yaml.

    python -m pipeline.tools.reference            # write those that are out of date
    python -m pipeline.tools.reference --check    # name those that are out of date

docs/reference.md is not among them: Sphinx reads the library's docstrings each time it builds the site.
"""

import importlib
import json
import pkgutil
import re
import sys
import textwrap
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from pydantic import create_model
from pydantic.json_schema import GenerateJsonSchema
from typer.cli import get_docs_for_click

import pipeline
from pipeline.common.params import Params
from pipeline.common.sections import Entry, entries_type
from pipeline.tools import recipe
from pipeline.tools.templates import template

Json: TypeAlias = dict[str, Any]


def main(
    *, check: Annotated[bool, typer.Option(help="Write nothing; name what is out of date, and fail.")] = False
) -> None:
    """Write the pages of docs/ that can be read off the code, and the JSON Schema of params.yaml."""
    texts = {path: text() for path, text in PAGES.items()}
    stale = [path for path in texts if not path.exists() or path.read_text(encoding="utf-8") != texts[path]]
    if check and stale:
        sys.exit(
            f"\nout of date: {', '.join(map(str, stale))}; `python -m pipeline.tools.reference` writes them anew\n"
        )
    for path in stale:
        path.write_text(texts[path], encoding="utf-8")
        print(f"{path} is new")


# --- params.schema.json ----------------------------------------------------------------------------------------------


class WithoutTitles(GenerateJsonSchema):
    """pydantic's JSON Schema, in which keys have no titles beside their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        """Whether a key has a title."""
        return False


def schema() -> Json:
    """The JSON Schema of params.yaml."""
    entries = (entries_type(), Params.model_fields["variants"])
    document = "Made by python -m pipeline.tools.reference from the code that checks params.yaml."
    whole = create_model("params.yaml", __base__=Params, __doc__=document, variants=entries)
    return {"$schema": GenerateJsonSchema.schema_dialect} | whole.model_json_schema(schema_generator=WithoutTitles)


# --- docs/parameters.md ----------------------------------------------------------------------------------------------

SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
TYPES = {
    "integer": "whole number",
    "null": "null",
    "number": "number",
    "string": "text",
    "boolean": "`true`, `false`",
    "object": "a mapping",
}


def parameters() -> str:
    """docs/parameters.md: a table for each section of params.yaml, each model, and each part of one.

    A key that means the same in several models stands there once.
    """
    whole = schema()
    definitions = whole["$defs"]
    common = Entry.model_json_schema(schema_generator=WithoutTitles)["properties"]
    choices: dict[str, Json] = {name: {} for name, each in definitions.items() if "type" not in each}
    for name, each in definitions.items():
        title, _, member = name.partition("-")
        if title in choices and member:
            own = {key: inner for key, inner in each["properties"].items() if key not in {"name", *common}}
            choices[title][member] = {"document": " ".join(each["description"].split()), "own": own}

    def rows(keys: Json) -> list[tuple[str, ...]]:
        return [row for key in keys for row in _rows(keys[key], key, definitions)]

    def shared_rows(members: Json) -> list[tuple[str, ...]]:
        counts = Counter(row for member in members.values() for row in rows(member["own"]))
        return [row for row, times in counts.items() if times > 1]

    page = template("parameters.md.j2")
    page.globals.update(rows=rows, shared_rows=shared_rows)
    return page.render(sections=whole["properties"], common=common, choices=choices)


def _rows(section: Json, path: str, definitions: Json) -> Iterator[tuple[str, ...]]:
    """A key and the keys below it: path, default, what is allowed, meaning."""
    default = f"`{json.dumps(section['default'])}`".replace('"', "") if "default" in section else ""
    meaning = section["description"].replace("|", "∣")
    yield f"`{path}`", default, _allowed(section, definitions), meaning
    inner = definitions.get(_target(section), section)
    if "$ref" in (named := inner.get("additionalProperties") or {}):
        inner = {"properties": {"*": named | {"description": "a name of yours"}}}
    for key, each in inner.get("properties", {}).items():
        yield from _rows(each, f"{path}.{key}", definitions)


def _allowed(section: Json, definitions: Json) -> str:
    """A schema in words."""
    inner = definitions.get(_target(section), section)
    if "type" not in inner:  # a choice, by name where a name alone will do
        choices, part = inner.get("anyOf", []), _target(section)
        names = [_allowed(each, definitions) for each in choices if "type" in each]
        if not choices or len(names) < len(choices):
            names.append(f"a [{part}](#{part}s): its `name` and its keys")
        return " or ".join(names)
    if values := inner.get("enum", [inner["const"]] if "const" in inner else []):
        return ", ".join(f"`{each}`" for each in values)
    if "items" in inner:
        return f"a list, each {_allowed(inner['items'], definitions)}"
    bounds = [f"{sign} {inner[key]:,.15g}" for key, sign in SIGNS.items() if key in inner]
    return f"{TYPES[inner['type']]} {', '.join(bounds)}".strip()


def _target(section: Json) -> str:
    return str(section.get("$ref", "")).rpartition("/")[2]


# --- docs/commands.md ------------------------------------------------------------------------------------------------

EXAMPLES = re.compile(r"^(?:  \S.*\n)+", re.MULTILINE)  # lines that are set in by two
OPTION = re.compile(r"^\* `-.*\n", re.MULTILINE)


def commands() -> str:
    """docs/commands.md, by typer's own utility for such pages; options that several commands share stand there once."""
    targets = re.findall(r"^([a-z-]+):.*?## +(.*)$", Path("Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    texts = [_described(words, found) for words, found in programs().items()]
    shared = [option for option, times in Counter(OPTION.findall("".join(texts))).items() if times > 1]
    texts = [OPTION.sub(lambda option: "" if option[0] in shared else option[0], text) for text in texts]
    texts = [re.sub(r"\*\*Options\*\*:\n\n(?!\* )", "", text) for text in texts]
    texts = [re.sub(r"\*\*Usage\*\*:\n\n```console\n\$ (.+)\n```\n", r"Usage: `\1`\n", text) for text in texts]
    texts = [re.sub(r"\n{3,}", "\n\n", text) for text in texts]
    return template("commands.md.j2").render(targets=targets, programs=texts, shared=shared)


def _described(words: str, found: Any) -> str:
    if isinstance(found, str):
        return f"### `{words}`\n\n{found}"
    context = found.context_class(found, info_name=words, **found.context_settings)
    text = get_docs_for_click(obj=found, ctx=context, indent=2, name=words)
    return EXAMPLES.sub(lambda lines: f"\n```sh\n{textwrap.dedent(lines[0])}```\n", text)


def programs() -> dict[str, Any]:
    """What parses each command line of the project; of one that takes no arguments, the first words of its module.

    The parsers are new ones each time: one that has parsed a line keeps the words for help of that line's settings.
    """
    with Path("pyproject.toml").open("rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    found: dict[str, Any] = {}
    for name, where in scripts.items():
        module: Any = importlib.import_module(where.partition(":")[0])
        found[name] = typer.main.get_command(module.app)
    for each in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        module = importlib.import_module(each.name)
        text = Path(module.__file__).read_text(encoding="utf-8")
        if "typer.run(main)" in text:
            app = typer.Typer(add_completion=False)
            app.command()(module.main)
            found[f"python -m {each.name}"] = typer.main.get_command(app)
        elif '__name__ == "__main__"' in text:
            document = " ".join(module.__doc__.split("\n\n")[0].split(": ", 1)[-1].split())
            found[f"python -m {each.name}"] = f"{document[:1].upper()}{document[1:]}"
    return found


PAGES: dict[Path, Callable[[], str]] = {
    Path("docs/parameters.md"): parameters,
    Path("docs/commands.md"): commands,
    recipe.TABLE: recipe.page,
    recipe.PAGE: recipe.study,
    Path("params.schema.json"): lambda: json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
}

if __name__ == "__main__":
    typer.run(main)
