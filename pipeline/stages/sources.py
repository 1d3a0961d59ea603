"""sources: write, for each entry, the hashes of the source files from which the entry's model is built.

An entry is a model with its settings in params.yaml. The source files are the entry's network, and all parts that the
model's file imports, directly or through other parts, such as a prior. If the code of a quantiser changes, DVC trains
only those entries again whose model has a quantiser. `dvc.yaml` alone cannot express this dependency, because its
templates give every entry the same dependencies.
"""

import ast
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SOURCES = Path("sources")
SOURCE = Path("src/aelab")
PARTS = ("variants", "likelihoods", "priors", "quantizers")  # packages from which a model's file imports its parts


def main() -> None:
    """Write a file of hashes for each entry. Skip invalid entries, since other stages check `params.yaml`."""
    shutil.rmtree(SOURCES, ignore_errors=True)  # DVC does not delete a persistent output
    SOURCES.mkdir()
    entries = YAML(typ="safe", pure=True).load(Path("params.yaml").read_text(encoding="utf-8"))["variants"]
    for name, entry in entries.items():
        if not (re.fullmatch(r"[\w-]+", str(name)) and isinstance(entry, dict)):
            continue
        hashes = {
            path.relative_to(SOURCE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(parts_of(entry))
            if path.exists()
        }
        (SOURCES / f"{name}.json").write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


def parts_of(entry: Mapping[str, Any]) -> set[Path]:
    """Return the source files of an entry's parts and network.

    The model's own file is left out, because `dvc.yaml` names this file.
    """
    model, network = SOURCE / "variants" / f"{entry.get('model')}.py", entry.get("network")
    named = network.get("name") if isinstance(network, dict) else network
    own = {SOURCE / "networks" / f"{named}.py"} if named else set()
    return own | (reached(model) - {model} if model.exists() else set())


def reached(path: Path) -> set[Path]:
    """Return `path` and the files of all parts that this file imports, directly or through other files."""
    found, waiting = set[Path](), [path]
    while waiting:
        if (here := waiting.pop()) not in found:
            found.add(here)
            waiting += imported(here)
    return found


def imported(path: Path) -> Iterator[Path]:
    """Yield the files of the parts that a file imports directly.

    If the file imports a registry of parts, such as QUANTIZERS, yield all files in the folder of these parts.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        package, _, module = (node.module or "").removeprefix("aelab.").partition(".")
        for name in (alias.name for alias in node.names):
            if package in PARTS:
                yield SOURCE / package / f"{module or name}.py"
            elif name.isupper() and name.lower() in PARTS:
                yield from sorted((SOURCE / name.lower()).glob("*.py"))


if __name__ == "__main__":
    main()
