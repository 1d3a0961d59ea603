"""Registries of the models that `params.yaml` names, and of their parts: networks, likelihoods, priors and quantisers.

A registry is a Python package with one file for each part (or model). The file has the part's name, and defines the
part as a subclass of the registry's base class. The keyword arguments of the subclass's constructor are the part's keys
in `params.yaml`. Files with code that several parts share have names that begin with `_`.
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
    """The parts of one package, which can be listed, found and built by their names.

    A constructor's argument with the annotation `Annotated[dict[str, Any], registry]` selects a part of `registry`. The
    argument's value in `params.yaml` is the part's name, or a mapping with `name` and the part's own keys.

    Attributes:
        package: Name of the package, such as "aelab.networks".
        base: Base class of the parts.
        title: Word for one part in messages, such as "network".
    """

    package: str
    base: type[T]
    title: str

    @property
    def folder(self) -> Path:
        """Folder of the package's files."""
        return Path(next(iter(importlib.import_module(self.package).__path__)))

    def available(self) -> list[str]:
        """Names of all parts, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.py") if not path.stem.startswith("_"))

    def find(self, name: str) -> type[T]:
        """Return the class of the part `name`.

        Raises:
            LookupError: The registry has no such part, or the part's file does not define exactly one subclass of
                `base`.
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
        """Build the part that `section` names. The constructor gets `arguments` and the other keys of the section."""
        keys = {"name": section} if isinstance(section, str) else dict(section)
        return self.find(keys.pop("name"))(*arguments, **keys)


def keys_of(part: type) -> Iterator[inspect.Parameter]:
    """Keyword-only arguments of the constructor of the class `part`, each with its annotated type."""
    hints = typing.get_type_hints(part.__init__, include_extras=True)  # type: ignore[misc]
    for key in inspect.signature(part).parameters.values():
        if key.kind is inspect.Parameter.KEYWORD_ONLY:
            yield key.replace(annotation=hints.get(key.name, inspect.Parameter.empty))


def registry_of(annotation: Any) -> Registry[Any] | None:
    """Registry in the annotation of a constructor's argument; None if the argument does not select a part."""
    return next((mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Registry)), None)
