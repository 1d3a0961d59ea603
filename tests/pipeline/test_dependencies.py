"""`dvc.yaml` must name all code that a stage runs: otherwise a change of the code would keep the old results."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aelab.models.base import VARIANTS
from pipeline.stages import sources
from tests.support.project import REPOSITORY

DVC = YAML(typ="safe", pure=True).load(REPOSITORY / "dvc.yaml")["stages"]
STAGES: dict[str, Any] = {
    name: do for name, each in DVC.items() if not (do := each.get("do", each)).get("always_changed")
}
WITHOUT_EFFECT = {
    "pipeline/__init__.py": "sets how often garbage is looked for, and which of two copies of the code runs",
    "src/aelab/__init__.py": "the names for notebooks; stages import the modules themselves",
}
PARTS = tuple(
    f"src/aelab/{package}/" for package in (*sources.PARTS, "networks")
)  # an entry depends on these through `sources`
TRAINED = {"train", "evaluate"}


def file_of(module: str) -> Path | None:
    """Return the file of a module of this project."""
    base = REPOSITORY / ("src" if module.startswith("aelab") else ".") / module.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imports(path: Path) -> Iterator[Path]:
    """Yield the project's files that a file imports, also inside functions; names after `from` may be modules."""
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
    """Return all code that a stage runs according to its imports; a package with only a docstring runs nothing."""
    models = stage in {"classify", *TRAINED}  # other stages at most check the entries
    seen, waiting = set[Path](), [REPOSITORY / "pipeline/stages" / f"{stage}.py"]
    while waiting:
        path = waiting.pop()
        if path.relative_to(REPOSITORY).as_posix() in WITHOUT_EFFECT:
            continue
        if path not in seen and (models or not needs_torch(path)):
            seen.add(path)
            waiting += imports(path)
    return {path.relative_to(REPOSITORY).as_posix() for path in seen if len(ast.parse(path.read_text()).body) > 1}


def needs_torch(path: Path) -> bool:
    """Whether a file imports torch at its top, directly or through another file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    found = [file for name in modules if name.startswith("aelab") and (file := file_of(name))]
    return "torch" in modules or any(needs_torch(file) for file in found if file != path)


def missing(stage: str, deps: list[str]) -> set[str]:
    """Return the code that a stage runs without depending on it."""
    named = any(dep.startswith("sources/") for dep in deps)  # parts of an entry's model
    return {
        file
        for file in runs(stage)
        if file not in deps
        and not any(file.startswith(f"{dep}/") for dep in deps)
        and not (named and file.startswith(PARTS))
    }


def deps_of(stage: str) -> list[str]:
    return list(STAGES[stage]["deps"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_code_that_it_runs(stage: str) -> None:
    assert missing(stage, deps_of(stage)) == set()


@pytest.mark.parametrize("stage", sorted(STAGES.keys() - {"sources"}))  # it runs only the standard library
def test_a_stage_depends_on_its_packages(stage: str) -> None:
    """Packages of the product are dependencies, such as torch; packages of the documentation are not."""
    assert "requirements.lock" in deps_of(stage)
    assert "requirements-dev.lock" not in deps_of(stage)


@pytest.mark.parametrize(
    ("stage", "forgotten"),
    [
        ("train", "pipeline/common"),
        ("train", "pipeline/training"),
        ("train", "sources/${key}.json"),
        ("train", "src/aelab/models"),
        ("evaluate", "src/aelab/evaluation"),
        ("corrupt", "src/aelab/core"),
        ("classify", "src/aelab/training"),
        ("classify", "src/aelab/evaluation/fidelity.py"),
        ("report", "src/aelab/report"),
    ],
)
def test_a_forgotten_dependency_would_be_noticed(stage: str, forgotten: str) -> None:
    part = stage in TRAINED and forgotten.startswith("sources/")
    found = missing(stage, [dep for dep in deps_of(stage) if dep != forgotten])
    assert found or part
    assert not part or not any(dep.startswith("sources/") for dep in deps_of(stage) if dep != forgotten)


def test_all_that_is_named_is_there() -> None:
    named = {
        dep for stage in STAGES for dep in deps_of(stage) if dep.startswith(("pipeline", "src")) and "$" not in dep
    }
    assert all((REPOSITORY / dep).exists() for dep in named)


def entries_of_all_models(folder: Path) -> dict[str, Any]:
    """Return an entry of each model, with a network if the model has one, and an entry with another network."""
    entries: dict[str, Any] = {
        name: {"model": name} | ({} if VARIANTS.find(name).floor else {"network": {"name": "patches"}})
        for name in VARIANTS.available()
    }
    entries["ae-conv"] = {"model": "ae", "network": "conv"}
    YAML().dump({"variants": entries}, folder / "params.yaml")
    return entries


def test_an_entry_has_the_parts_that_it_is_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCE", REPOSITORY / "src/aelab")
    monkeypatch.chdir(tmp_path)
    entries = entries_of_all_models(tmp_path)
    Path("sources").mkdir()
    Path("sources/removed.json").write_text("{}", encoding="utf-8")  # an entry that no longer exists
    sources.main()
    files = {path.stem: set(json.loads(path.read_text())) for path in Path("sources").iterdir()}
    assert files.keys() == entries.keys()
    networks = {name: {file for file in each if file.startswith("networks/")} for name, each in files.items()}
    assert networks["ae-conv"] == {"networks/conv.py"}
    assert networks["pca"] == networks["identity"] == set()
    assert all(
        networks[name] == {"networks/patches.py"} for name, each in entries.items() if "name" in each.get("network", ())
    )

    def packages(model: str) -> set[str]:
        return {package for file in files[model] if (package := file.split("/")[0]) != "networks"}

    assert packages("ae") == packages("pca") == {"variants"}
    assert packages("vae") == packages("tcvae") == {"variants", "likelihoods", "priors"}
    assert packages("ladder") == {"variants", "likelihoods"}
    assert packages("vqvae") == {"variants", "likelihoods", "quantizers"}
    assert "variants/vae.py" in files["tcvae"]
    assert "variants/_deterministic.py" in files["wae"]
    assert {"quantizers/_vectors.py", "quantizers/fsq.py"} <= files["vqvae"]
    assert not any(file.startswith("variants/") and file in files["ae"] for file in ("variants/vae.py",))


@pytest.mark.parametrize(
    "wrong",
    [
        {"../x": {"model": "ae"}}, {"<a>/b": {}}, {"x": None}, {"x": "ae"}, {"x": {}}, {"x": {"model": "no_such"}},
        {"x": {"model": 3, "network": []}}, {"x": {"model": "ae", "network": {}}}, {"x": {"network": {"name": "no"}}},
    ],
)  # fmt: skip
def test_a_wrong_entry_is_left_to_those_that_check_it(
    wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SOURCE", REPOSITORY / "src/aelab")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    YAML().dump({"variants": wrong | {"ae": {"model": "ae", "network": "mlp"}}}, Path("params.yaml"))
    sources.main()
    assert "networks/mlp.py" in json.loads(Path("sources/ae.json").read_text())
    assert {path.name for path in tmp_path.rglob("*.json")} <= {"ae.json", "x.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert not wrong.keys() & {"../x", "<a>/b"} or not Path("sources/x.json").exists()


def test_a_change_of_a_part_changes_the_models_that_use_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in (*sources.PARTS, "networks"):
        (tmp_path / "src/aelab" / package).mkdir(parents=True)
        for path in (REPOSITORY / "src/aelab" / package).glob("*.py"):
            (tmp_path / "src/aelab" / package / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    entries_of_all_models(tmp_path)

    def written() -> dict[str, bytes]:
        sources.main()
        return {path.stem: path.read_bytes() for path in Path("sources").iterdir()}

    before = written()
    for part, users in {
        "quantizers/fsq.py": {"vqvae"},
        "likelihoods/logistic.py": {"vae", "iwae", "tcvae", "ladder", "vqvae"},
        "priors/mixture.py": {"vae", "iwae", "tcvae"},
        "variants/vae.py": {"iwae", "tcvae"},  # vae also changes, through its own file
        "variants/_floor.py": {"identity", "pca"},
        "networks/conv.py": {"ae-conv"},
        "networks/mlp.py": set(),
    }.items():
        path = Path("src/aelab") / part
        content = path.read_bytes()
        path.write_bytes(content + b"# changed\n")
        after = written()
        assert {name for name in before if before[name] != after[name]} == users, part
        path.write_bytes(content)


def runtime_protocols(source: str) -> list[int]:
    """Return the lines that make a protocol usable with `isinstance`."""
    named = [
        (node.lineno, {getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", "")})
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name | ast.Attribute | ast.alias)
    ]
    return [line for line, names in named if names & {"runtime_checkable", "runtime"}]


def test_no_check_rests_on_a_protocol() -> None:
    """Since Python 3.12, such a check does not see the attributes of an `nn.Module`; a base class works instead."""
    paths = [
        path for folder in ("src", "pipeline", "faults", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")
    ]
    assert len(paths) > 100
    assert [str(path) for path in paths if runtime_protocols(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "source",
    [
        "from typing import Protocol, runtime_checkable\n\n@runtime_checkable\nclass A(Protocol):\n    quantizer: int",
        "import typing\n\n@typing.runtime_checkable\nclass A(typing.Protocol):\n    def indices(self) -> int: ...",
        "from typing_extensions import runtime_checkable as checked",
        "import typing_extensions as t\n\nA = t.runtime(t.Protocol)",
    ],
)
def test_a_protocol_for_checks_is_noticed(source: str) -> None:
    assert runtime_protocols(source)
