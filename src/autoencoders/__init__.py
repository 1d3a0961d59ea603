"""Autoencoders: the models, their training and their evaluation. Knows no path and no parameter file.

What a notebook needs is here by short names, imported when it is first used; docs/library.md shows it at work.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoencoders.budget import Budget, How
    from autoencoders.checkpoint import build, load, save
    from autoencoders.corruption import corrupt
    from autoencoders.devices import prepare
    from autoencoders.downloads import load as load_data
    from autoencoders.evaluation import evaluate
    from autoencoders.pairs import Pairs
    from autoencoders.tensors import as_float
    from autoencoders.training.loop import train

__all__ = [
    "Budget",
    "How",
    "Pairs",
    "as_float",
    "build",
    "corrupt",
    "evaluate",
    "load",
    "load_data",
    "prepare",
    "save",
    "train",
]
HOMES = {
    "Budget": "budget",
    "How": "budget",
    "Pairs": "sources",
    "as_float": "tensors",
    "build": "checkpoint",
    "corrupt": "corruption",
    "evaluate": "evaluation",
    "load": "checkpoint",
    "load_data": "downloads.load",
    "prepare": "devices",
    "save": "checkpoint",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(HOMES)}"
        raise AttributeError(msg)
    home, _, renamed = HOMES[name].partition(".")
    return getattr(importlib.import_module(f"{__name__}.{home}"), renamed or name)
