"""sources: for each model, the hashes of the part files that it is built from, as far as its imports reach.

A training depends on the hashes of its own model alone. So a new quantiser reruns the entries whose model has a
quantiser, and no others: DVC's templates cannot leave out a dependency that an entry does not have.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path("sources")
SOURCE = Path("src/aelab")
PARTS = ("variants", "likelihoods", "priors", "quantizers")  # an entry names its network: dvc.yaml has that file


def main() -> None:
    """Write a file of hashes for each model."""
    SOURCES.mkdir(exist_ok=True)
    for model in (SOURCE / "variants").glob("[a-z]*.py"):
        files = sorted(reached(model) - {model})  # its own file is a dependency beside this one
        hashes = {path.relative_to(SOURCE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        (SOURCES / f"{model.stem}.json").write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


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
