"""`dvc.yaml` names all code that a stage runs: else a change of it would leave the old results standing."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aelab.models.base import VARIANTS
from aelab.models.likelihood import LIKELIHOODS
from aelab.models.network import NETWORKS
from aelab.models.quantizer import QUANTIZERS
from tests.support.project import REPOSITORY

STAGES: dict[str, Any] = YAML(typ="safe", pure=True).load(REPOSITORY / "dvc.yaml")["stages"]
WITHOUT_EFFECT = {
    "pipeline/__init__.py": "sets how often garbage is looked for",
    "pipeline/common/resources.py": "says how much may run at once",
    "src/aelab/__init__.py": "the names for notebooks; stages import the modules themselves",
    "src/aelab/core/environment.py": "reads how much a process may take",
    "src/aelab/core/errors.py": "is raised, not computed with",
}
KINDS = (LIKELIHOODS, NETWORKS, QUANTIZERS, VARIANTS)


def file_of(module: str) -> Path | None:
    """The file of a module of this project."""
    base = REPOSITORY / ("src" if module.startswith("aelab") else ".") / module.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imports(path: Path) -> Iterator[Path]:
    """The project's files that a file imports, also inside of functions; names after `from` may be modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in {"aelab", "pipeline"} and (found := file_of(name)):
                yield found


def runs(stage: str) -> set[str]:
    """All code that a stage runs, as far as imports tell; the parts that are chosen by name are all among it."""
    models = stage in {"classify", "train", "evaluate"}  # the others at most check the entries
    seen, waiting = set[Path](), [REPOSITORY / "pipeline" / f"{stage}.py"]
    if models and stage != "classify":
        waiting += [path for kind in KINDS for path in kind.folder.glob("*.py")]
    while waiting:
        path = waiting.pop()
        without_effect = path.relative_to(REPOSITORY).as_posix() in WITHOUT_EFFECT
        if path not in seen and not without_effect and (models or not needs_torch(path)):
            seen.add(path)
            waiting += imports(path)
    return {path.relative_to(REPOSITORY).as_posix() for path in seen}


def needs_torch(path: Path) -> bool:
    """Whether a file imports torch at its top, or one that does."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    found = [file for name in modules if name.startswith("aelab") and (file := file_of(name))]
    return "torch" in modules or any(needs_torch(file) for file in found if file != path)


def missing(stage: str, deps: list[str]) -> set[str]:
    """The code that a stage runs and does not depend on."""
    # An entry depends on the files of its own model and network alone, and on those that others import.
    by_name = tuple(dep.split("${")[0] for dep in deps if dep.endswith("}.py"))
    files = runs(stage)
    imported = {found.relative_to(REPOSITORY).as_posix() for file in files for found in imports(REPOSITORY / file)}
    return {
        file
        for file in files
        if file not in deps
        and not any(file.startswith(f"{dep}/") for dep in deps)
        and not (file.startswith(by_name) and not file.endswith("__init__.py") and file not in imported)
    }


def deps_of(stage: str) -> list[str]:
    return list((STAGES[stage].get("do") or STAGES[stage])["deps"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_code_that_it_runs(stage: str) -> None:
    assert missing(stage, deps_of(stage)) == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_packages(stage: str) -> None:
    """An upgrade of torch is a change of the code."""
    assert "requirements.lock" in deps_of(stage)


@pytest.mark.parametrize(
    ("stage", "forgotten"),
    [
        ("train", "pipeline/common/params.py"),
        ("train", "src/aelab/variants/__init__.py"),
        ("train", "src/aelab/variants/vae.py"),
        ("train", "src/aelab/models/layers.py"),
        ("evaluate", "src/aelab/evaluation/image_quality.py"),
        ("corrupt", "src/aelab/core/arrays.py"),
        ("classify", "src/aelab/training"),
        ("evaluate", "src/aelab/evaluation/probes.py"),
        ("report", "src/aelab/report/metrics.py"),
    ],
)
def test_a_forgotten_dependency_would_be_noticed(stage: str, forgotten: str) -> None:
    assert missing(stage, [dep for dep in deps_of(stage) if dep != forgotten])


def test_all_that_is_named_is_there() -> None:
    named = {
        dep for stage in STAGES for dep in deps_of(stage) if dep.startswith(("pipeline", "src")) and "$" not in dep
    }
    assert all((REPOSITORY / dep).exists() for dep in named)
