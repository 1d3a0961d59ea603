"""What is built for others holds all of the library, and works from where it is unpacked."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.project import REPOSITORY, Project

# Imports every module of the library from the folder that is given, and finds its parts.
SCRIPT = """
import importlib, sys
from pathlib import Path
folder = Path(sys.argv[1])
sys.path[:] = [str(folder), *(path for path in sys.path if not path.endswith("src"))]
for path in sorted(folder.rglob("*.py")):
    name = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    assert Path(module.__file__).is_relative_to(folder), module.__file__
from aelab.models.network import NETWORKS
from aelab.models.base import VARIANTS
assert "vqvae" in VARIANTS.available() and "patches" in NETWORKS.available()
print(len(list(folder.rglob("*.py"))))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and a source distribution, built without a network."""
    project = Project(tmp_path_factory.mktemp("source"))
    target = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", target], cwd=project.folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def sources() -> set[str]:
    folder = REPOSITORY / "src"
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in files if ".egg-info" not in str(path)}


def test_a_wheel_holds_all_of_the_library_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == sources()
    assert any(name.startswith("aelab/report/templates/") for name in names)


def test_a_wheel_works_from_where_it_is_unpacked(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)  # noqa: S202 - we have made it
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(name.endswith(".py") for name in sources())


def test_a_source_distribution_can_be_worked_with(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in sources()} <= names
    assert {"README.md", "LICENSE", "pyproject.toml", "dvc.yaml", "params.yaml", "pipeline/common/params.py"} <= names


def test_the_hooks_before_a_commit_are_valid_and_fetch_nothing() -> None:
    config = REPOSITORY / ".pre-commit-config.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert [line.strip() for line in config.read_text().splitlines() if "repo:" in line] == ["- repo: local"]


@pytest.mark.parametrize(
    ("made_in", "anew"),
    [("here", False), ("", False), ("/elsewhere/project", True), ("here/inside", True), ("/", True)],
)
def test_the_environment_of_a_project_that_was_moved_is_made_anew(made_in: str, anew: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Its programs and its editable install name the folder where it was made."""
    folder = tmp_path / "my project"
    (folder / ".venv").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
        os.utime(folder / name, (0, 0))
    (folder / ".venv/ready").write_text(made_in.replace("here", str(folder)) + "\n")
    done = subprocess.run(["make", "--dry-run", "repro"], cwd=folder, capture_output=True, text=True, check=True)
    assert ("rm -rf .venv" in done.stdout) is anew
    assert ("--editable" in done.stdout) is anew


def test_a_user_without_a_name_has_one_for_dvc(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    with (tmp_path / "Makefile").open("a") as file:
        file.write('who:\n\t@echo "[$$USER]"\n')
    for given, said in (({"USER": "mia"}, "mia"), ({}, str(os.getuid()))):
        environment = {"PATH": os.environ["PATH"], **given}
        done = subprocess.run(
            ["make", "who"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"[{said}]\n"
