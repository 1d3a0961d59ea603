"""reference: write the pages of docs/ that can be read off the code, and the JSON Schema of params.yaml.

    python -m pipeline.reference            # write them anew
    python -m pipeline.reference --check    # say which of them are out of date

So nothing is said twice by hand: a key's meaning stands in params.yaml, its range where it is checked.
"""

import ast
import importlib
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from autoencoders.base import VARIANTS
from autoencoders.budget import Budget
from autoencoders.parts import keys_of
from pipeline import schema
from pipeline.params import PARAMS, read

SOURCES, MAKEFILE = Path("src/autoencoders"), Path("Makefile")
# Every command of the project, and where its function or its typer.Typer is; a module alone takes no arguments.
COMMANDS = {
    "autoencoders": "autoencoders.cli:app",
    "python -m pipeline.repro": "pipeline.repro:main",
    "python -m pipeline.worker_stage": "pipeline.worker_stage",
    "python -m pipeline.track": "pipeline.track:main",
    "python -m pipeline.recipe": "pipeline.recipe:main",
    "python -m pipeline.compare": "pipeline.compare:main",
    "python -m pipeline.doctor": "pipeline.doctor:main",
    "python -m pipeline.reference": "pipeline.reference:main",
    "python -m pipeline.params": "pipeline.params",
    "python -m pipeline.download": "pipeline.download",
    "python -m pipeline.corrupt": "pipeline.corrupt:main",
    "python -m pipeline.noise": "pipeline.noise",
    "python -m pipeline.classify": "pipeline.classify",
    "python -m pipeline.train": "pipeline.train:main",
    "python -m pipeline.evaluate": "pipeline.evaluate:main",
    "python -m pipeline.report": "pipeline.report",
}


def main(
    *, check: Annotated[bool, typer.Option(help="Write nothing; name what is out of date, and fail.")] = False
) -> None:
    """Write the pages of docs/ that can be read off the code, and the JSON Schema of params.yaml."""
    stale = [path for path, text in pages() if not path.exists() or path.read_text(encoding="utf-8") != text()]
    if check and stale:
        sys.exit(f"\nout of date: {', '.join(map(str, stale))}; `python -m pipeline.reference` writes them anew\n")
    for path, text in pages():
        if path in stale:
            path.write_text(text(), encoding="utf-8")
            print(f"{path} is new")


def pages() -> list[tuple[Path, Callable[[], str]]]:
    """Each file that is made from the code, and what is to stand in it."""
    return [
        (Path("docs/parameters.md"), parameters),
        (Path("docs/commands.md"), commands),
        (Path("docs/reference.md"), reference),
        (Path("params.schema.json"), lambda: json.dumps(schema.whole(), indent=2, ensure_ascii=False) + "\n"),
    ]


def _notice(sources: str) -> str:
    return textwrap.fill(f"Made by `python -m pipeline.reference` from {sources}; edit that, not this page.", 118)


# --- parameters ------------------------------------------------------------------------------------------------------

HEADER = "| key | default | allowed | meaning |\n|---|---|---|---|\n"
PLURAL = {"network": "Networks", "likelihood": "Likelihoods", "prior": "Priors", "quantizer": "Quantisers"}
INTRODUCTION = """\
`params.yaml` is checked as a whole before any stage works: a key that does not exist or a value that is out of range
gets a sentence, and nothing is lost. The defaults of the sections are those of `params.yaml`, those of a model's keys
are its constructor's; – has to be given. Editors that read the first line of `params.yaml` check it while you type, by
`params.schema.json`."""


def parameters() -> str:
    """docs/parameters.md."""
    return Parameters().page()


class Parameters:
    """The page on `params.yaml`: a table for each of its sections, each model, and each part of one."""

    def __init__(self) -> None:
        self.whole, self.values, self.comments = schema.whole(), read(PARAMS), schema.meanings()
        self.definitions = self.whole["$defs"]

    def page(self) -> str:
        """All of it."""
        sources = (
            "the comments of `params.yaml` and the code that checks it: the classes of `pipeline/params.py`, the "
            "constructors of models and parts"
        )
        parts = ["# Parameters", _notice(sources), INTRODUCTION]
        for name, section in self.whole["properties"].items():
            parts.append(f"## `{name}`")
            if name == "variants":
                parts += self._entries()
                continue
            if name in self.comments and "properties" in self._follow(section):
                parts.append(_sentence(self.comments[name]))
            parts.append(HEADER + "".join(self._rows(section, name, self.values[name], self.comments.get(name, ""))))
        return "\n\n".join(part.strip() for part in parts) + "\n"

    def _rows(self, section: Any, path: str, value: Any, meaning: str) -> Iterator[str]:
        """The row of one key, or those of the keys below it."""
        inner = self._follow(section)
        if path == "corruption.train":
            yield _row(f"{path}.*", "–", "names of yours, each with the keys below", meaning)
            example = next(iter(value.values()))
            yield from self._rows(inner["additionalProperties"], f"{path}.*", example, "")
        elif "properties" in inner:
            for key, each in inner["properties"].items():
                given = value.get(key, each.get("default")) if isinstance(value, dict) else None
                yield from self._rows(each, f"{path}.{key}", given, self._meaning(path, key, meaning))
        else:
            yield _row(path, _shown(value), self.allowed(section), meaning)

    def _meaning(self, path: str, key: str, around: str) -> str:
        """What the comments say of a key; else of the same key of `training`, or of the mapping around it."""
        budget = self.comments.get(f"training.{key}", "") if path.endswith("classifier") else ""
        return self.comments.get(f"{path}.{key}") or budget or ("" if path in self.whole["properties"] else around)

    def _entries(self) -> list[str]:
        """The sections on the entries, and on what they are made of."""
        overridden = ", ".join(f"`{key}`" for key in Budget.model_fields)
        properties = self.definitions["entry-ae"]["properties"]
        rows = _row("model", "–", ", ".join(f"`{name}`" for name in VARIANTS.available()), self._of_entry("model"))
        rows += _row("inputs", "–", self.allowed(properties["inputs"]), self._of_entry("inputs"))
        rows += _row("training", "`{}`", f"a mapping with some of {overridden}", self._of_entry("training"))
        parts = [_sentence(self.comments["variants"]), "Every entry has", HEADER + rows, "and the keys of its model:"]
        for name in VARIANTS.available():
            parts += self._part("entry", name, VARIANTS.find(name))
        for title, kind in schema.KINDS.items():
            bare = "." if title == "network" else ", or, where no key has to be given, the name alone."
            parts += [
                f"## {PLURAL[title]}",
                f"Under `{title}` stand the `name` of one of these and its keys{bare}",
            ]
            for name in kind.available():
                parts += self._part(title, name, kind.find(name))
        return parts

    def _of_entry(self, key: str) -> str:
        return next(text for path, text in self.comments.items() if re.fullmatch(rf"variants\.[^.]+\.{key}", path))

    def _part(self, title: str, name: str, part: type) -> list[str]:
        """The heading, the description and the table of one model or part."""
        document, rows = " ".join((part.__doc__ or "").split()), ""
        for key in keys_of(part):
            meaning = schema.meaning_of_key(self.comments, title, name, key.name)
            default = "–" if key.default is key.empty else _shown(key.default)
            what = self.allowed(self.definitions[f"{title}-{name}"]["properties"][key.name])
            rows += _row(key.name, default, what, "as above" if meaning == document else meaning)
        heading = f"### `model: {name}`" if title == "entry" else f"### `{title}: {{name: {name}}}`"
        return [heading, document, *([HEADER + rows] if rows else [])]

    def allowed(self, section: Any) -> str:
        """A schema in words."""
        name = section.get("$ref", "").rpartition("/")[2]
        if name in schema.KINDS:
            return f"a {PLURAL[name].lower()[:-1]}: its `name` and its keys"
        if name:
            return self.allowed(self.definitions[name])
        if "anyOf" in section:
            return " or ".join(self.allowed(each) for each in section["anyOf"])
        if "enum" in section:
            return ", ".join(f"`{each}`" for each in section["enum"])
        return self._by_type(section)

    def _by_type(self, section: Any) -> str:
        """The same of a schema that says the type."""
        if "items" in section:
            return "a list, each " + self.allowed(section["items"])
        if "properties" in section:
            return "a mapping of " + ", ".join(f"`{key}`" for key in section["properties"])
        if "additionalProperties" in section:
            return "a mapping, each value " + self.allowed(section["additionalProperties"])
        words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
        bounds = [f"{sign} {section[key]:,.15g}" for key, sign in SIGNS.items() if key in section]
        return f"{words[section['type']]} {', '.join(bounds)}".strip()

    def _follow(self, section: Any) -> Any:
        return self.definitions[section["$ref"].rpartition("/")[2]] if "$ref" in section else section


SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _row(key: str, default: str, what: str, meaning: str) -> str:
    return f"| `{key}` | {default} | {what} | {meaning.replace('|', '∣')} |\n"


def _shown(value: Any) -> str:
    """A value as `params.yaml` would have it."""
    return "–" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`".replace('"', "")


def _sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


# --- commands --------------------------------------------------------------------------------------------------------


def commands() -> str:
    """docs/commands.md."""
    targets = re.findall(r"^([a-z-]+):.*?## +(.*)$", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    rows = "".join(f"| `make {name}` | {what} |\n" for name, what in targets)
    parts = [
        "# Commands",
        _notice("the `Makefile` and what each command says to `--help`"),
        "## make",
        "Each sets up the environment first, where that has not been done.",
        f"| command | what it does |\n|---|---|\n{rows}",
        "## Programs",
        "With the environment active (`source .venv/bin/activate`). The last ones are the stages, which DVC runs.",
    ]
    for words, where in COMMANDS.items():
        parts += [f"### `{words}`", *_command(words, where)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _command(words: str, where: str) -> list[str]:
    module, _, name = where.partition(":")
    if not name:
        path = Path(f"{module.replace('.', '/')}.py")
        document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        return [_sentence(document.split("\n\n")[0].split(": ", 1)[-1].replace("\n", " "))]
    found = getattr(importlib.import_module(module), name)
    return list(_described(parser(found), words))


def parser(found: Any) -> Any:
    """What parses the command line of a function, or of a typer.Typer."""
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    app = typer.Typer(add_completion=False)
    app.command()(found)
    return typer.main.get_command(app)


def _described(command: Any, words: str) -> Iterator[str]:
    """What a command says to --help, and what the commands below it say."""
    context = command.context_class(command, info_name=words)
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    for paragraph in re.split(r"\n\s*\n", (command.help or "").strip("\n")):
        code = paragraph.startswith("    ")  # commands to copy
        yield f"```sh\n{textwrap.dedent(paragraph)}\n```" if code else " ".join(paragraph.split())
    yield f"```\n{usage}\n```"
    records = [each.get_help_record(context) for each in command.params if "--help" not in each.opts]
    rows = "".join(f"| `{name}` | {what} |\n".replace("  ", " ") for name, what in filter(None, records))
    if rows:
        yield f"| argument | what it is |\n|---|---|\n{rows}"
    for name, inner in getattr(command, "commands", {}).items():
        yield f"#### `{words} {name}`"
        yield from _described(inner, f"{words} {name}")


# --- reference -------------------------------------------------------------------------------------------------------


def reference() -> str:
    """docs/reference.md."""
    parts = [
        "# Library reference",
        _notice("the modules of `src/autoencoders`; their text is that of the docstrings"),
        "[The library in a notebook](library.md) shows the names that are used most at work.",
    ]
    for path in sorted(SOURCES.rglob("*.py"), key=lambda path: (len(path.parts), path)):
        inside = path.relative_to(SOURCES).with_suffix("")
        names = [SOURCES.name, *(part for part in inside.parts if part != "__init__")]
        if len(names) == 1:
            continue  # the names for notebooks: they are imported from where they are
        module = ".".join(names)
        parts += [f"## `{module}`", f"```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    typer.run(main)
