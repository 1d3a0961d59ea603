"""Damage to a project that is whole: what is said, and that the remedy mends it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.project import Project

TINY = {"network": {"name": "patches", "width": 8, "downsampling": 4}, "code": 4, "training": {"steps": 5}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project that has run through."""
    project = Project(tmp_path_factory.mktemp("check") / "project")
    params = project.params()
    params["seeds"] = [0]
    params["variants"] = {"ae": params["variants"]["ae"] | TINY}
    project.write_params(params)
    project.repro()
    return project


def flip(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


MODEL, FOLDER = "models/ae/seed0.safetensors", "data/clean/train"
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a flipped byte in the data": (
        lambda p: flip(p / FOLDER / "images.npy"),
        f"{FOLDER}/images.npy does not have the SHA-256 that it was written with",
        "",
    ),
    "a missing array": (lambda p: (p / FOLDER / "images.npy").unlink(), f"{FOLDER}/images.npy is missing", ""),
    "a missing seal": (lambda p: (p / FOLDER / "SHA256SUMS").unlink(), f"{FOLDER} cannot be checked", ""),
    "a flipped byte in a model": (lambda p: flip(p / MODEL), f"{MODEL} is damaged", ""),
    "a torn dvc.lock": (lambda p: cut(p / "dvc.lock", 0.71), "dvc.lock is damaged", "rm dvc.lock && make"),
    "a torn list of busy files": (lambda p: (p / ".dvc/tmp/rwlock").write_text('{"wri'), "it stops every DVC", ""),
    "a wrong parameter": (
        lambda p: (p / "params.yaml").write_text((p / "params.yaml").read_text().replace("code: 4", "code: -4")),
        "params.yaml: variants.ae.code is -4: must be greater than 0",
        "sed -i s/-4/4/ params.yaml",
    ),
}


def check(project: Project) -> tuple[int, str]:
    done = project.run(sys.executable, "-m", "pipeline.tools.check")
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def test_what_is_whole_is_whole(whole: Project) -> None:
    code, said = check(whole)
    assert (code, said) == (0, "✓ params.yaml, dvc.lock, data and models are in order\n")


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_its_remedy_mends_it(kind: str, whole: Project) -> None:
    damage, sentence, remedy = DAMAGE[kind]
    damage(whole.folder)
    code, said = check(whole)
    assert code == 1
    assert sentence in said
    if not remedy:  # the command that it names
        remedy = next(line[4:] for line in said.splitlines() if line.startswith("  → ")).split(", or")[0]
    done = whole.run("bash", "-c", remedy.replace("make", f"{sys.executable} -m pipeline.runner.repro"))
    assert done.returncode == 0, remedy + done.stderr
    assert check(whole)[0] == 0, (remedy, check(whole)[1])
