"""The variants, one file each: the file's name is the variant's name in `params.yaml`, its only subclass the model."""

import importlib
import inspect
import re
from pathlib import Path

from autoencoders.base import Autoencoder


def available() -> list[str]:
    """The names of all variants."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def find(name: str) -> type[Autoencoder]:
    """The class of variant `name`.

    Raises:
        LookupError: there is no such variant, or its file does not define exactly one `Autoencoder`.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name not in available():
        msg = f"unknown variant {name!r}; there are {', '.join(available())}"
        raise LookupError(msg)
    module = importlib.import_module(f"{__name__}.{name}")
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    variants = [c for c in classes if issubclass(c, Autoencoder)]
    if len(variants) != 1:
        msg = f"{module.__name__} must define exactly one subclass of Autoencoder, not {len(variants)}"
        raise LookupError(msg)
    return variants[0]
