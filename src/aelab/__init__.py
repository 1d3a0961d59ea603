"""Autoencoders: models, training and evaluation. The package works without `params.yaml` and without the pipeline.

Notebooks use the names in `__all__`, such as `aelab.train`. The module of a name is imported on the name's first use.
docs/notebook-library.ipynb has examples.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aelab.core.devices import prepare
    from aelab.core.settings import Budget, TrainingOptions
    from aelab.core.tensors import as_float
    from aelab.data.corruption import corrupt
    from aelab.data.pairs import Pairs
    from aelab.evaluation.reconstruction import evaluate
    from aelab.ingest.downloads import load as load_data
    from aelab.models.checkpoint import save
    from aelab.notebook import build, load, load_folder, show
    from aelab.training.loop import train

# Each public name, and its module. If the name inside the module differs, the inner name follows after a colon.
EXPORTS = {
    "Budget": "core.settings",
    "TrainingOptions": "core.settings",
    "Pairs": "data.pairs",
    "as_float": "core.tensors",
    "build": "notebook",
    "corrupt": "data.corruption",
    "evaluate": "evaluation.reconstruction",
    "load": "notebook",
    "load_data": "ingest.downloads:load",
    "load_folder": "notebook",
    "prepare": "core.devices",
    "save": "models.checkpoint",
    "show": "notebook",
    "train": "training.loop",
}
__all__ = [  # the keys of EXPORTS, written out for type checkers
    "Budget",
    "Pairs",
    "TrainingOptions",
    "as_float",
    "build",
    "corrupt",
    "evaluate",
    "load",
    "load_data",
    "load_folder",
    "prepare",
    "save",
    "show",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        msg = f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(EXPORTS)}"
        raise AttributeError(msg)
    home, _, renamed = EXPORTS[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{home}"), renamed or name)
