"""The distributed packages contain the whole library and work where they are unpacked; tests of `make setup`."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from aelab.core.errors import UserError
from pipeline.tools import release
from tests.support.project import REPOSITORY, Project

LOCKS = ("requirements.lock", "requirements-dev.lock")

# Imports every module of the library from the given folder, and finds its parts.
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
    """Build a wheel and a source distribution twice, without a network and with equal bytes."""
    project = Project(tmp_path_factory.mktemp("source"))
    project.git("commit", "--quiet", "--all", "--message", "small")
    target = tmp_path_factory.mktemp("release") / "dist"
    release.build(project.folder, target)
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
        archive.extractall(tmp_path)  # noqa: S202 - built by this test
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


def test_a_wheel_that_depends_on_where_it_is_built_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(_repository: Path, place: Path, _epoch: str) -> Path:
        place.mkdir()
        (place / "aelab.whl").write_text(str(place), encoding="utf-8")
        return place

    monkeypatch.setattr(release, "_built", built)
    with pytest.raises(UserError, match=r"two builds of one commit differ in: aelab\.whl"):
        release.build(REPOSITORY, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def packages(lock: str) -> dict[str, str]:
    """Return each package of a lock with its lines; a package may have several versions for versions of Python."""
    found: dict[str, str] = {}
    for each in re.split(r"\n(?=\S)", (REPOSITORY / lock).read_text(encoding="utf-8").strip()):
        name = each.partition("==")[0]
        found[name] = f"{found[name]}\n{each}" if name in found else each
    return found


def test_the_bill_of_materials_names_each_package_of_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    lock, bills = tmp_path / "some.lock", [tmp_path / "one.json", tmp_path / "another.json"]
    some = {name: lines for name, lines in packages("requirements.lock").items() if name[0] in "cj"}  # of 212
    lock.write_text("\n".join(some.values()), encoding="utf-8")
    for each in bills:
        release.bill(lock, each)
    text, again = (each.read_text(encoding="utf-8") for each in bills)
    assert text == again
    content = json.loads(text)
    assert content["metadata"]["component"]["name"] == "aelab"
    assert {each["name"] for each in content["components"]} == set(some)
    check = JsonStrictValidator(SchemaVersion.V1_6).validate_str
    assert check(text) is None
    assert check(text.replace('"CycloneDX"', '"Cyclone"')) is not None


def test_the_licences_are_those_that_the_packages_name() -> None:
    table = release.licences(REPOSITORY / "requirements.lock")
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) \| \S+ \| (.+) \|$", table, re.MULTILINE))
    rows.pop("package")
    assert rows.keys() == packages("requirements.lock").keys()
    assert rows["jinja2"] == "BSD License"
    assert rows["numpy"].startswith("BSD-3-Clause")
    assert {name for name, licence in rows.items() if licence == "not said"} <= {"cuda-toolkit", "huey"}


@pytest.mark.parametrize(
    ("heading", "dated"),
    [
        ("## 0.2.0 - 2026-12-01", True),
        ("## Unreleased", False),
        ("## 0.2.0", False),
        ("## 0.2.1 - 2026-12-01", False),
        ("## 0.2.0 - soon", False),
        ("## 0x2.0 - 2026-12-01", False),
    ],
)
def test_a_release_needs_a_dated_section_of_the_changelog(heading: str, dated: bool) -> None:  # noqa: FBT001
    text = f"# Changelog\n\n{heading}\n\n- A wheel.\n"
    if dated:
        release.check_changelog(text, "0.2.0")
    else:
        with pytest.raises(UserError, match=r"no section for this version: .* `## 0\.2\.0 - YYYY-MM-DD`"):
            release.check_changelog(text, "0.2.0")


def test_a_release_is_made_of_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path)  # with uncommitted small parameters
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"commit these changed files first:\n.*params\.yaml"):
        release.check_committed()
    project.git("commit", "--quiet", "--all", "--message", "small")
    release.check_committed()


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
    """Programs and the editable install contain the path of the folder where the environment was made."""
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


STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$(dirname "$0")/../../calls"
"""  # stand-in for a program of the environment


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Make a checkout whose environment has stand-ins for Python and uv, which record their arguments."""
    folder = tmp_path / "project"
    (folder / "programs").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(REPOSITORY / name, folder)
    # Python makes the environment, with itself and uv in the environment's folder.
    making = 'test "$2" != venv || { mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/uv"; }\n'
    python = folder / "programs/python"
    python.write_text(STAND_IN + making, encoding="utf-8")
    python.chmod(0o755)
    return folder


def make(folder: Path, *arguments: str) -> tuple[str, list[str]]:
    """Return the output of `make`, and the recorded calls of the stand-ins."""
    (folder / "calls").unlink(missing_ok=True)
    environment = {"PATH": os.environ["PATH"]}
    command = ["make", f"PYTHON={folder}/programs/python", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    calls = folder / "calls"
    return done.stdout + done.stderr, calls.read_text().splitlines() if calls.exists() else []


def test_setting_up_ends_with_what_to_type_next(empty: Path) -> None:
    said, calls = make(empty, "setup")
    assert said.splitlines()[-1].startswith("The environment .venv is ready. Next: make taste")
    assert any(call.endswith("--require-hashes -r requirements.lock") for call in calls)
    assert not any("torch" in call for call in calls)
    assert make(empty, "setup")[1] == []


def test_torch_for_cpus_stays_chosen(empty: Path) -> None:
    said, calls = make(empty, "setup", "TORCH=cpu")
    assert "making a new one" not in said
    versions = [packages("requirements.lock")[name].split()[0] for name in ("torch", "torchvision")]
    assert any(call.endswith(f"--no-deps --torch-backend cpu {' '.join(versions)}") for call in calls)
    os.utime(empty / ".venv/ready", (0, 0))  # now the lock is newer
    said, calls = make(empty, "setup")
    assert "making a new one" not in said
    assert any("--torch-backend cpu" in call for call in calls)
    assert not any("-r requirements.lock" in call for call in calls)
    said, calls = make(empty, "setup", "TORCH=lock")
    assert "was made with TORCH=cpu: making a new one with TORCH=lock" in said
    assert any(call.endswith("--require-hashes -r requirements.lock") for call in calls)
    said, calls = make(empty, "setup")
    assert "making a new one" not in said
    assert calls == []


@pytest.mark.parametrize("lock", LOCKS)
def test_all_but_torch_comes_out_of_the_lock_with_its_hashes(lock: str, empty: Path) -> None:
    make(empty, ".venv/ready-dev" if "dev" in lock else "setup", "TORCH=cpu")
    left = (empty / ".venv/cpu.lock").read_text(encoding="utf-8")
    whole = packages(lock)
    without = {name for name in whole if not re.search(rf"^{re.escape(name)}==", left, re.MULTILINE)}
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-toolkit"} <= without
    assert all(re.match("torch|triton|nvidia-|cuda-", name) for name in without)
    assert left.split() == " ".join(each for name, each in whole.items() if name not in without).split()


def test_another_torch_is_refused_by_name(empty: Path) -> None:
    said, calls = make(empty, "setup", "TORCH=rocm")
    assert "TORCH=rocm: cpu is torch for CPUs, lock is the torch of requirements.lock" in said
    assert calls == []
