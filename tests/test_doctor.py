"""Ten kinds of damage to a project that is whole: what is said, and that the remedy mends it."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.project import Project

TINY = {"network": {"name": "patches", "width": 8, "downsampling": 4}, "code": 4, "training": {"steps": 5}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project that has run through, with a training that was broken off."""
    project = Project(tmp_path_factory.mktemp("doctor") / "project")
    params = project.params()
    params["seeds"] = [0]
    params["variants"] = {"ae": params["variants"]["ae"] | TINY}
    project.write_params(params)
    project.repro()
    slot = next((project.folder / "checkpoints").glob("ae-seed0-*"))
    broken_off = slot.with_name("ae-seed9-0123456789abcdef")
    broken_off.mkdir()
    for name in ("last.safetensors", "previous.safetensors"):
        shutil.copy(slot / "model.safetensors", broken_off / name)
    return project


def flip(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cached(folder: Path, out: str) -> Path:
    """A file of an output, in DVC's cache."""
    listed = subprocess.run(["md5sum", out], cwd=folder, capture_output=True, text=True, check=True).stdout[:32]
    return folder / ".dvc/cache/files/md5" / listed[:2] / listed[2:]


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


MODEL, IMAGES = "models/ae/seed0.safetensors", "data/clean/train/images.npy"
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a flipped byte in the data": (lambda p: flip(p / IMAGES), f"{IMAGES} is not what its stage has written", ""),
    "a missing array": (lambda p: (p / IMAGES).unlink(), f"{IMAGES} is missing", ""),
    "a flipped byte in a model": (lambda p: flip(p / MODEL), f"{MODEL} is damaged", ""),
    "a flipped byte in the cache": (lambda p: flip(cached(p, MODEL)), "in DVC's cache, is damaged", ""),
    "raw data cut off": (
        lambda p: cut(p / "data/raw/digits/images"),
        "images does not have the pinned SHA-256",
        "",
    ),
    "a checkpoint cut off": (
        lambda p: cut(next(p.glob("checkpoints/*/last.safetensors"))),
        "last.safetensors",
        "rm -r checkpoints/ae-seed9-*",
    ),
    "a finished training changed": (
        lambda p: cut(next(p.glob("checkpoints/ae-seed0-*/curve.jsonl"))),
        "curve.jsonl has changed since its training ended",
        "",
    ),
    "a torn dvc.lock": (lambda p: cut(p / "dvc.lock", 0.71), "dvc.lock is damaged", "rm dvc.lock && make"),
    "a torn list of busy files": (lambda p: (p / ".dvc/tmp/rwlock").write_text('{"wri'), "it stops every DVC", ""),
    "a broken tracker database": (
        lambda p: (p / "mlflow.db").write_bytes(b"no database" * 1000),
        "mlflow.db is damaged",
        "mv mlflow.db mlflow.db.damaged && make",
    ),
    "a wrong parameter": (
        lambda p: (p / "params.yaml").write_text((p / "params.yaml").read_text().replace("code: 4", "code: -4")),
        "params.yaml: variants.ae.code is -4: must be greater than 0",
        "sed -i s/-4/4/ params.yaml",
    ),
}


def doctor(project: Project) -> tuple[int, str]:
    done = project.run(sys.executable, "-m", "pipeline.doctor")
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def test_what_is_whole_is_whole(whole: Project) -> None:
    code, said = doctor(whole)
    assert (code, said[:21]) == (0, "✓ nothing is wrong wi")


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_its_remedy_mends_it(kind: str, whole: Project) -> None:
    damage, sentence, remedy = DAMAGE[kind]
    damage(whole.folder)
    code, said = doctor(whole)
    assert code == 1
    assert sentence in said
    if not remedy:  # the command that it names
        remedy = next(line[4:] for line in said.splitlines() if line.startswith("  → ")).split(", or")[0].split(";")[0]
    remedy = remedy.replace("make track", "make").replace("make", f"{sys.executable} -m pipeline.repro")
    done = whole.run("bash", "-c", remedy)
    assert done.returncode == 0, remedy + done.stderr
    assert doctor(whole)[0] == 0, (remedy, doctor(whole)[1])
