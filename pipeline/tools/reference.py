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
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from pydantic import create_model
from pydantic.json_schema import GenerateJsonSchema
from typer.cli import get_docs_for_click

import pipeline
from pipeline.common.params import Params
from pipeline.common.sections import Entry, entries_type

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


def _page(title: str, sources: str, parts: list[str]) -> str:
    notice = f"Made by `python -m pipeline.tools.reference` from {sources}; edit that, not this page."
    return "\n\n".join([f"# {title}", textwrap.fill(notice, 118), *(part.strip() for part in parts)]) + "\n"


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

INTRODUCTION = """\
`params.yaml` is checked as a whole before any stage works: a key that does not exist or a value that is out of range
gets a sentence, and nothing is lost. Keys without a default have to be given. Editors that read the first line of
`params.yaml` check it while you type, by `params.schema.json`."""
SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true`, `false`",
    "object": "a mapping",
}


def parameters() -> str:
    """docs/parameters.md: a table for each section of params.yaml, each model, and each part of one."""
    whole = schema()
    definitions, parts = whole["$defs"], [INTRODUCTION]
    common = Entry.model_json_schema(schema_generator=WithoutTitles)["properties"]
    for name, section in whole["properties"].items():
        parts.append(f"## `{name}`")
        if name == "variants":
            parts += ["Every entry has these keys, and those of its [model](#models):", _table(common, definitions)]
        else:
            parts.append(_table({name: section}, definitions))
    for title in (name for name, each in definitions.items() if "type" not in each):  # a choice of several
        parts.append(f"## {title.capitalize()}s")
        for name, each in definitions.items():
            if name.startswith(f"{title}-"):
                own = {key: inner for key, inner in each["properties"].items() if key not in {"name", *common}}
                document = " ".join(each["description"].split())
                table = _table(own, definitions).replace(f"| {document} |", "| as above |")
                parts += [f"### `{name.partition('-')[2]}`", document, *([table] if own else [])]
    return _page("Parameters", "the code that checks `params.yaml`, and the constructors of models and parts", parts)


def _table(keys: Json, definitions: Json) -> str:
    """A table of keys, and of the keys below them."""
    rows = (row for key, each in keys.items() for row in _rows(each, key, definitions))
    return "| key | default | allowed | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _rows(section: Json, path: str, definitions: Json) -> Iterator[str]:
    default = f"`{json.dumps(section['default'])}`".replace('"', "") if "default" in section else ""
    meaning = section["description"].replace("|", "∣")
    yield f"| `{path}` | {default} | {_allowed(section, definitions)} | {meaning} |\n"
    inner = definitions.get(_target(section), section)
    if "$ref" in (named := inner.get("additionalProperties") or {}):
        inner = {"properties": {"*": named | {"description": "a name of yours"}}}
    for key, each in inner.get("properties", {}).items():
        yield from _rows(each, f"{path}.{key}", definitions)


def _allowed(section: Json, definitions: Json) -> str:
    """A schema in words."""
    inner = definitions.get(_target(section), section)
    if "type" not in inner:  # a choice, by name where a name alone will do
        names = [f"{_allowed(each, definitions)} or " for each in inner.get("anyOf", ()) if "type" in each]
        return f"{''.join(names)}a [{_target(section)}](#{_target(section)}s): its `name` and its keys"
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


def commands() -> str:
    """docs/commands.md, by typer's own utility for such pages."""
    targets = re.findall(r"^([a-z-]+):.*?## +(.*)$", Path("Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    rows = "".join(f"| `make {name}` | {what} |\n" for name, what in targets)
    parts = [
        "## make",
        "Each sets up the environment first, where that has not been done.",
        f"| command | what it does |\n|---|---|\n{rows}",
        "## Programs",
        "With the environment active (`source .venv/bin/activate`). DVC runs those that are stages.",
    ]
    for words, found in programs().items():
        if isinstance(found, str):
            parts += [f"### `{words}`", found]
        else:
            context = found.context_class(found, info_name=words)
            text = get_docs_for_click(obj=found, ctx=context, indent=2, name=words)
            parts.append(EXAMPLES.sub(lambda lines: f"\n```sh\n{textwrap.dedent(lines[0])}```\n", text))
    return _page("Commands", "the `Makefile` and what each command says to `--help`", parts)


@cache
def programs() -> dict[str, Any]:
    """What parses each command line of the project; of one that takes no arguments, the first words of its module."""
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
    Path("params.schema.json"): lambda: json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
}

if __name__ == "__main__":
    typer.run(main)
