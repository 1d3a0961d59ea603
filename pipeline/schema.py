"""What `params.yaml` may hold, read off the classes and constructors that check it: as JSON Schema for editors, and as
the meaning of each key, which stands in the comments of `params.yaml` and nowhere else.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from pydantic import create_model
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema

from autoencoders.base import VARIANTS
from autoencoders.likelihood import LIKELIHOODS
from autoencoders.network import NETWORKS
from autoencoders.parts import Kind, keys_of, kind_of
from autoencoders.prior import PRIORS
from autoencoders.quantizer import QUANTIZERS
from pipeline.params import Entry, Params, Part, Section

Json: TypeAlias = dict[str, Any]

KINDS: dict[str, Kind[Any]] = {"network": NETWORKS, "likelihood": LIKELIHOODS, "prior": PRIORS, "quantizer": QUANTIZERS}
WITHOUT_COMMENT = {  # keys that the default params.yaml does not have, nor their classes explain
    "activation": "what follows each layer",
    "alpha": "weight of the mutual information",
    "gradient": "what reaches the encoder through a code: its gradient, or that turned and scaled as the code is",
    "prior.prior": "of the layer above: a prior again",
    "restarts": "whether a code that is out of use restarts as an output of the encoder",
    "width": "feature maps on the grid",
}


class Schema(GenerateJsonSchema):
    """As pydantic has it, with the values that `params.one_of` allows, and without titles."""

    def function_before_schema(self, schema: Any) -> Json:
        """A value that is checked by a function first."""
        allowed = inspect.getclosurevars(schema["function"]["function"]).nonlocals.get("names")
        return {"type": "string", "enum": allowed} if allowed else super().function_before_schema(schema)

    def field_title_should_be_set(self, schema: CoreSchema | Any) -> bool:  # noqa: ARG002
        """Keys speak for themselves."""
        return False


def keys_model(part: type, base: type[Section]) -> type[Section]:
    """The keys of a part, the arguments of its constructor, as a class that pydantic checks."""
    fields: Json = {
        key.name: (key.annotation, ... if key.default is inspect.Parameter.empty else key.default)
        for key in keys_of(part)
    }
    return create_model(part.__name__, __base__=base, __doc__=part.__doc__, **fields)


def whole() -> Json:
    """The schema of all of `params.yaml`."""
    schema = Params.model_json_schema(schema_generator=Schema)
    definitions: Json = schema.pop("$defs")
    properties = {"variants": {"type": "object", "minProperties": 1, "additionalProperties": _refer("entry")}}
    definitions |= _chosen(VARIANTS, "entry", "model", Entry)
    for name, kind in KINDS.items():
        definitions |= _chosen(kind, name, "name", Part)
    comments = meanings()
    _describe(schema["properties"], "", comments, definitions)
    _describe(definitions["BudgetOverrides"]["properties"], "training.", comments, definitions)
    schema["properties"] |= properties
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml",
        "description": "Made by python -m pipeline.reference from the code that checks params.yaml.",
        **{key: value for key, value in schema.items() if key not in {"title", "description"}},
        "$defs": {name: _without_title(each) for name, each in sorted(definitions.items())},
    }


def part_schema(part: type, base: type[Section]) -> tuple[Json, Json]:
    """The schema of a part's section, and what it refers to."""
    schema = keys_model(part, base).model_json_schema(schema_generator=Schema)
    for key in keys_of(part):
        if (kind := kind_of(key.annotation)) is not None:
            title = next(name for name, each in KINDS.items() if each is kind)
            names = [] if kind is NETWORKS else _names(kind)  # dvc.yaml reads network.name
            refer = _refer(title)
            schema["properties"][key.name] = {"anyOf": [{"enum": names}, refer]} if names else refer
    return schema, schema.pop("$defs", {})


def _chosen(kind: Kind[Any], title: str, key: str, base: type[Section]) -> Json:
    """A section whose `key` names a part: the other keys are those of that part."""
    found: Json = {}
    cases, comments = [], meanings()
    for name in kind.available():
        part, inner = part_schema(kind.find(name), base)
        for each, schema in part["properties"].items():
            if meaning := meaning_of_key(comments, title, name, each):
                part["properties"][each] = schema | {"description": meaning}
        found |= inner | {f"{title}-{name}": part}
        case = {"properties": {key: {"const": name}}, "required": [key]}
        cases.append({"if": case, "then": _refer(f"{title}-{name}")})
    named = {"type": "object", "required": [key], "properties": {key: {"enum": kind.available()}}, "allOf": cases}
    return found | {title: named}


def _names(kind: Kind[Any]) -> list[str]:
    """The parts of a kind that need no keys: their names alone will do."""
    return [name for name in kind.available() if all(key.default is not key.empty for key in keys_of(kind.find(name)))]


def _describe(properties: Json, path: str, comments: Mapping[str, str], definitions: Json) -> None:
    """Put what the comments say to each key, and to those below it."""
    for name, schema in properties.items():
        here = f"{path}{name}"
        inner: Json = _followed(schema, definitions)
        if "properties" in inner:
            inside = "training" if here == "evaluation.classifier" else here  # a budget too
            _describe(inner["properties"], f"{inside}.", comments, definitions)
        elif here == "corruption.train":
            named = _followed(schema["additionalProperties"], definitions)
            _describe(named["properties"], f"{here}.*.", comments, definitions)
        if here in comments:
            properties[name] = schema | {"description": comments[here]}


def _followed(schema: Json, definitions: Json) -> Any:
    return definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _refer(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


def _without_title(schema: Json) -> Json:
    return {key: value for key, value in schema.items() if key != "title"}


# --- meanings --------------------------------------------------------------------------------------------------------


def meanings(text: str | None = None) -> dict[str, str]:
    """What the comments of `params.yaml` say, by dotted key; the name of a corruption is a *.

    A key's comment stands behind it, and goes on in the lines of comments below; or above it, in lines that begin where
    it begins.
    """
    from pipeline.params import PARAMS  # noqa: PLC0415

    found: dict[str, str] = {}
    above: list[str] = []
    last = ""
    for line, dotted in _lines(PARAMS.read_text(encoding="utf-8") if text is None else text):
        comment = _comment(line)
        if dotted is not None:
            said = " ".join([*above, *([comment] if comment else [])])
            if said:
                found[dotted] = said
            above, last = [], dotted if comment else ""
        elif line.startswith("#"):
            above.append(f"`{comment.strip()}`" if comment.startswith("  ") else comment)
        elif comment and last:
            found[last] = f"{found[last]} {comment.strip()}"
        else:
            above = []
    return found


def _lines(text: str) -> Iterator[tuple[str, str | None]]:
    """Each line, with the dotted key that it begins, if it does."""
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        key = re.match(r"( *)([\w-]+):", line)
        if key is None:
            yield line, None
            continue
        path = [each for each in path if each[0] < len(key[1])]
        above = ".".join(name for _, name in path)
        path.append((len(key[1]), "*" if above == "corruption.train" else key[2]))
        yield line, ".".join(name for _, name in path)


def _comment(line: str) -> str:
    found = re.search(r"(?:^| )# ?(.*)$", line)
    return found[1] if found else ""


def meaning_of_key(comments: Mapping[str, str], title: str, name: str, key: str) -> str:
    """What the key of a part means: as the comments or its class have it; or the comments on another one's."""
    place = key if title == "entry" else f"{title}.{key}"
    own = f"variants.{name}.{place}" if title == "entry" else ""
    document = (VARIANTS if title == "entry" else KINDS[title]).find(name).__doc__ or ""
    others = (text for path, text in comments.items() if re.fullmatch(rf"variants\.[^.]+\.{re.escape(place)}", path))
    return (
        comments.get(own)
        or (" ".join(document.split()) if f"`{key}`" in document else "")
        or WITHOUT_COMMENT.get(f"{title}.{key}")
        or next(others, "")
        or WITHOUT_COMMENT.get(key, "")
    )
