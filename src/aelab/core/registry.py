"""Registries of the parts that `params.yaml` chooses by name: a registry is a package, a part is one file in it.

The file's name is the part's name. The only subclass of the registry's base class in it is the part, and the keyword
arguments of that class's constructor are the part's keys in `params.yaml`. Files whose names begin with `_` hold what
several parts share.
"""

import importlib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """The parts of one package. As an annotation, `Annotated[dict[str, Any], registry]`, it marks a key whose value is
    a part of it: the part's name, or a mapping of `name` and the part's own keys.
    """

    package: str
    base: type[T]
    title: str  # what one part is called

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return Path(next(iter(importlib.import_module(self.package).__path__)))

    def available(self) -> list[str]:
        """The names of all parts."""
        return sorted(path.stem for path in self.folder.glob("*.py") if not path.stem.startswith("_"))

    def find(self, name: str) -> type[T]:
        """The class of the part `name`.

        Raises:
            LookupError: there is no such part, or its file does not define exactly one.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name not in self.available():
            msg = f"unknown {self.title} {name!r}; there are {', '.join(self.available())}"
            raise LookupError(msg)
        module = importlib.import_module(f"{self.package}.{name}")
        classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
        found = [c for c in classes if issubclass(c, self.base)]
        if len(found) != 1:
            msg = f"{module.__name__} must define exactly one subclass of {self.base.__name__}, not {len(found)}"
            raise LookupError(msg)
        return found[0]

    def build(self, section: str | Mapping[str, Any], *arguments: Any) -> T:
        """The part that a section names, from its positional `arguments` and the section's other keys."""
        keys = {"name": section} if isinstance(section, str) else dict(section)
        return self.find(keys.pop("name"))(*arguments, **keys)


def keys_of(part: type) -> Iterator[inspect.Parameter]:
    """The keyword arguments of a part's constructor, each with its type as annotated."""
    hints = typing.get_type_hints(part.__init__, include_extras=True)  # type: ignore[misc]
    for key in inspect.signature(part).parameters.values():
        if key.kind is inspect.Parameter.KEYWORD_ONLY:
            yield key.replace(annotation=hints.get(key.name, inspect.Parameter.empty))


def registry_of(annotation: Any) -> Registry[Any] | None:
    """The registry that an annotation asks for a part of, if it does."""
    return next((mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Registry)), None)
