"""Checks the sections of `params.yaml` that name a model, or a part of a model such as a prior.

The other keys of a section are the keyword arguments of the constructor of that model or part. `union_of` makes a
pydantic class from each constructor. The name in a section selects the class that checks the section. Each mistake
becomes one sentence.
"""

import inspect
import re
import reprlib
import typing
from functools import partial
from typing import Annotated, Any, ForwardRef, Literal, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    create_model,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from aelab.core.errors import did_you_mean
from aelab.core.registry import Registry, keys_of, registry_of

DEEPEST = 12  # maximum depth of parts inside parts, such as a prior of a prior
SHORT = reprlib.Repr()  # shortens values in messages
SHORT.maxother, SHORT.maxlevel = 60, 3


class Section(BaseModel):
    """Mapping of keys to values in `params.yaml`. Unknown keys, values of a wrong type, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True)


class Part(Section):
    """Section that names a part, such as a network."""

    name: str = Field(description="name of the part's file; the other keys are the arguments of its constructor")


# --- unions of models and parts --------------------------------------------------------------------------------------


def union_of(registry: Registry[Any], key: str, base: type[Section]) -> Any:
    """Return the pydantic type of a section that names a part of `registry`, and contains the part's own keys.

    Args:
        registry: Registry of the parts.
        key: Key whose value is the name of the part, such as "model".
        base: Class with the keys that all these sections share. The sections of inner parts share the keys of `Part`.
    """
    choices: dict[str, Choice] = {}
    waiting = [Choice(registry, key, base)]
    while waiting:
        choice = waiting.pop()
        choices[choice.registry.base.__name__] = choice
        waiting += [Choice(each, "name", Part) for each in choice.inner if each.base.__name__ not in choices]
    types = {name: choice.as_type() for name, choice in choices.items()}
    for choice in choices.values():
        for section in choice.sections.values():
            section.model_rebuild(_types_namespace=types)
    return types[registry.base.__name__]


class Choice:
    """Choice among the parts of a registry. For each part, a section class checks the section of the part.

    If a part contains another part, its section class refers to the class of the other section by a forward reference,
    which is only a name. A direct reference is impossible, because a part may contain a part of its own registry.
    """

    def __init__(self, registry: Registry[Any], key: str, base: type[Section]) -> None:
        self.registry, self.key = registry, key
        self.takes_names = key == "name"
        self.sections: dict[str, type[Section]] = {}
        self.broken: dict[str, str] = {}
        self.inner: list[Registry[Any]] = []
        for name in registry.available():
            try:
                self.sections[name] = self._section(name, registry.find(name), base)
            except Exception as error:  # noqa: BLE001 - a part's file may fail in any way when it is imported
                self.broken[name] = f"src/{registry.package.replace('.', '/')}/{name}.py cannot be used: {error}"

    def _section(self, name: str, part: type, base: type[Section]) -> type[Section]:
        """Section class of the part `name`. The keys are the keyword arguments of the constructor of `part`."""
        named = Field(description=base.model_fields[self.key].description)
        fields: dict[str, Any] = {self.key: (Literal[name], named)}
        if (seen := getattr(part, "inputs", None)) and "inputs" in base.model_fields:
            fields["inputs"] = (
                Annotated[str, AfterValidator(partial(_check_inputs, name, seen))],
                base.model_fields["inputs"],
            )
        for key in keys_of(part):
            fields[key.name] = self._field(key, " ".join((part.__doc__ or "").split()))
        return create_model(f"{self.registry.title}-{name}", __base__=base, __doc__=part.__doc__, **fields)

    def _field(self, key: inspect.Parameter, document: str) -> tuple[Any, Any]:
        """Type and default of a key. If the annotation has no description, the part's docstring describes the key."""
        if key.annotation is key.empty:
            msg = f"give the constructor's argument {key.name} a type"
            raise TypeError(msg)
        annotation, marks = key.annotation, getattr(key.annotation, "__metadata__", ())
        if registry := registry_of(annotation):
            self.inner.append(registry)
            annotation = Annotated[ForwardRef(registry.base.__name__), *marks]
        field: Any = ... if key.default is key.empty else key.default
        if f"`{key.name}`" in document and not any(getattr(mark, "description", None) for mark in marks):
            field = Field(field, description=document)
        return annotation, field

    def as_type(self) -> Any:
        """Union of the section classes. In the JSON Schema, a name alone may select a part without required keys."""
        union: Any = Union[tuple(self.sections.values()) or (Part,)]  # noqa: UP007
        if len(self.sections) > 1:
            union = Annotated[union, Field(discriminator=self.key)]
        required = {name: [each.is_required() for each in s.model_fields.values()] for name, s in self.sections.items()}
        bare = [name for name, each in required.items() if sum(each) == 1]  # parts that require only their name
        shown: Any = Union[Literal[tuple(bare)], union] if bare and self.takes_names else union  # noqa: UP007
        validator = WrapValidator(self._choose, json_schema_input_type=shown)
        return TypeAliasType(self.registry.title, Annotated[union, validator])

    def _choose(self, value: Any, _: Any, info: ValidationInfo) -> Section:
        """Check `value`, a section or only a name, with the section class of the part that `value` names.

        If pydantic chose the class, it would add the part's name to the location of each error.
        """
        title, depth = self.registry.title, (info.context or 0) + 1
        there = f"there are {', '.join(self.registry.available())}"
        section = {self.key: value} if isinstance(value, str) and self.takes_names else value
        if not isinstance(section, dict):
            named = f"the name of a {title} or a mapping with its name; {there}"
            wrong = [f" is {_shown(value)}: must be {named if self.key == 'name' else 'a mapping of keys to values'}"]
        elif depth > DEEPEST:
            wrong = [f" has parts within parts: at most {DEEPEST} levels are allowed"]
        elif self.key not in section:
            wrong = [f".{self.key} is missing; {there}"]
        elif (name := str(section[self.key])) not in self.sections:
            unknown = f"unknown {title} {name!r}; {there}{did_you_mean(name, self.sections)}"
            wrong = [f".{self.key}: {self.broken.get(name, unknown)}"]
        else:
            try:
                return self.sections[name].model_validate(section, context=depth)
            except ValidationError as error:
                wrong = [f".{each}" for each in in_sentences(error, self.sections[name])]
        raise PydanticCustomError("section", "wrong", {"sentences": wrong})  # noqa: EM101


def _check_inputs(model: str, seen: str, inputs: str) -> str:
    """Check that an entry's `inputs` suit the model, which must see `seen` images: "clean" or "corrupted"."""
    if seen != ("clean" if inputs == "clean" else "corrupted"):
        msg = f"the model {model} has to see {seen} images"
        raise ValueError(msg)
    return inputs


# --- sentences -------------------------------------------------------------------------------------------------------


def in_sentences(error: ValidationError, model: type[BaseModel], prefix: tuple[object, ...] = ()) -> list[str]:
    """Describe each problem of a validation error in one sentence: the key, its value, and the allowed values."""
    sentences = []
    for problem in error.errors():
        key = ".".join(str(part) for part in (*prefix, *problem["loc"]) if part != "[key]")
        value = problem["input"]
        kind = problem["type"]
        if kind == "section":
            sentences += [f"{key}{each}" for each in problem["ctx"]["sentences"]]
        elif kind == "extra_forbidden":
            known = _known_keys(model, problem["loc"][:-1])
            hint = did_you_mean(str(problem["loc"][-1]), known)
            sentences.append(f"{key} is an unknown key; known here: {', '.join(known)}{hint}")
        elif kind == "missing":
            others = [str(each) for each in value if each not in _fields(model)] if len(problem["loc"]) == 1 else []
            # Unknown sections are allowed at the top level, so a misspelt section is only reported as missing.
            sentences.append(f"{key} is missing{did_you_mean(key, others)}")
        else:
            sentences.append(f"{key or 'the file'} is {_shown(value)}: {_allowed(problem)}{_hint(value)}")
    return sentences


def _allowed(problem: typing.Mapping[str, Any]) -> str:
    """Allowed values in the words of pydantic, such as "must be a valid integer"."""
    message: str = problem["msg"].removeprefix("Value error, ")
    return re.sub(r" or instance of \w+| after validation", "", message.replace("Input should be", "must be"))


def _shown(value: object) -> str:
    """Short text of a value, for a message."""
    if isinstance(value, dict | list):
        return SHORT.repr(value)  # the whole text may exceed the memory, because YAML's aliases repeat values
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= SHORT.maxother else text[: SHORT.maxother - 3] + "…"


def _hint(value: object) -> str:
    """Remedy for a number that YAML has read as text; empty for any other value."""
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return ""
    return "" if number is None else "; YAML reads it as text, so write the number without quotes, as in 0.001"


def _known_keys(annotation: Any, location: tuple[int | str, ...]) -> list[str]:
    """Keys that are allowed at `location` inside the type `annotation`, a class or a mapping."""
    for part in location:
        values = typing.get_args(annotation)[1:]  # type of the values of a mapping; empty for a class
        annotation = values[0] if values else _fields(annotation).get(str(part), Any)
    return list(_fields(annotation))


def _fields(annotation: Any) -> dict[str, Any]:
    """Types of the keys of a pydantic class or a `TypedDict`, by name; empty for other types."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    return typing.get_type_hints(annotation) if isinstance(annotation, type) else {}
