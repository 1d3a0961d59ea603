"""sources: for each entry, the hashes of the part files that it is built from: those that its model's file reaches by
its imports, and its network, which the entry names, if it has one.

A training depends on the hashes of its own entry alone. So a new quantiser reruns the entries whose model has a
quantiser, and no others: DVC's templates cannot leave out a dependency that an entry does not have.
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
PARTS = ("variants", "likelihoods", "priors", "quantizers")  # a model's file imports what it uses of these


def main() -> None:
    """Write a file of hashes for each entry. What is wrong with one, the stages say that check all of `params.yaml`."""
    shutil.rmtree(SOURCES, ignore_errors=True)  # DVC does not: see dvc.yaml
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
    """The part files of an entry but for its model's own, which is a dependency beside this one."""
    model, network = SOURCE / "variants" / f"{entry.get('model')}.py", entry.get("network")
    named = network.get("name") if isinstance(network, dict) else network
    own = {SOURCE / "networks" / f"{named}.py"} if named else set()
    return own | (reached(model) - {model} if model.exists() else set())


def reached(path: Path) -> set[Path]:
    """The part files that a file runs, itself included: what it imports of them, and what that imports."""
    found, waiting = set[Path](), [path]
    while waiting:
        if (here := waiting.pop()) not in found:
            found.add(here)
            waiting += imported(here)
    return found


def imported(path: Path) -> Iterator[Path]:
    """The part files that one file imports. A registry, such as QUANTIZERS, stands for all files of its folder."""
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
