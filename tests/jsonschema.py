"""The part of JSON Schema that `params.schema.json` uses: what is wrong with a document, in words.

A keyword that is not known here is an error: nothing passes because it was not looked at.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda x: isinstance(x, dict),
    "array": lambda x: isinstance(x, list),
    "string": lambda x: isinstance(x, str),
    "boolean": lambda x: isinstance(x, bool),
    "number": lambda x: isinstance(x, int | float) and not isinstance(x, bool),
    "integer": lambda x: not isinstance(x, bool) and (isinstance(x, int) or (isinstance(x, float) and x.is_integer())),
}
BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "minimum": operator.ge, "exclusiveMinimum": operator.gt, "maximum": operator.le, "exclusiveMaximum": operator.lt,
}  # fmt: skip
LENGTHS = {"minItems": list, "minProperties": dict, "minLength": str}
NOTES = {"$schema", "$defs", "title", "description", "default", "then"}  # `then` goes with its `if`
KNOWN = {
    "$ref", "type", "enum", "const", "anyOf", "allOf", "if", "required", "properties", "additionalProperties",
    "propertyNames", "items", "pattern", *BOUNDS, *LENGTHS, *NOTES,
}  # fmt: skip


def problems(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What is wrong with `value`, which lies at `path`."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    yield from (f"{path or 'the file'} {what}" for what in _alone(value, schema))
    for each in _applied(value, schema, root):
        yield from problems(value, each, root, path)
    if "anyOf" in schema and not any(fits(value, each, root) for each in schema["anyOf"]):
        yield f"{path} fits none of the alternatives"
    if isinstance(value, list) and "items" in schema:
        for i, each in enumerate(value):
            yield from problems(each, schema["items"], root, f"{path}.{i}")
    if isinstance(value, dict):
        yield from _in_mapping(value, schema, root, path)


def _alone(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """By the keywords that look at nothing else."""
    if "type" in schema and not TYPES[schema["type"]](value):
        yield f"is no {schema['type']}"
    if value not in schema.get("enum", [value]) or ("const" in schema and value != schema["const"]):
        yield f"is none of {schema.get('enum', schema.get('const'))}"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"does not look like {schema['pattern']}"
    for name, holds in BOUNDS.items():
        if name in schema and TYPES["number"](value) and not holds(value, schema[name]):
            yield f"is beyond the {name}, {schema[name]}"
    for name, kind in LENGTHS.items():
        if isinstance(value, kind) and len(value) < schema.get(name, 0):
            yield f"has less than {schema[name]}: {name}"


def _applied(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schemas that hold too."""
    if "$ref" in schema:
        yield root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "if" in schema and fits(value, schema["if"], root):
        yield schema["then"]
    yield from schema.get("allOf", ())


def _in_mapping(value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], path: str) -> Iterator[str]:
    yield from (f"{path}.{key} is missing" for key in schema.get("required", ()) if key not in value)
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, each in value.items():
        if "propertyNames" in schema:
            yield from problems(key, schema["propertyNames"], root, f"{path}.{key}")
        if key in properties:
            yield from problems(each, properties[key], root, f"{path}.{key}")
        elif others is False:
            yield f"{path}.{key} is unknown"
        elif others is not True:
            yield from problems(each, others, root, f"{path}.{key}")


def fits(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Whether nothing is wrong."""
    return next(problems(value, schema, root), None) is None
