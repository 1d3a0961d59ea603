"""Damage to a complete project: the message names it, and the remedy repairs it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.tools import check
from tests.support.project import Project

MODEL, FOLDER = "models/vae/seed0.safetensors", "data/clean/train"


def flip(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a flipped byte in the data": (
        lambda p: flip(p / FOLDER / "images.npy"),
        f"{FOLDER}/images.npy does not have the SHA-256 that it was written with",
        "",
    ),
    "a missing array": (lambda p: (p / FOLDER / "images.npy").unlink(), f"{FOLDER}/images.npy is missing", ""),
    "a missing seal": (lambda p: (p / FOLDER / "SHA256SUMS").unlink(), f"{FOLDER} cannot be checked", ""),
    "a flipped byte in a model": (lambda p: flip(p / MODEL), f"{MODEL} is damaged", ""),
    "a torn dvc.lock": (lambda p: cut(p / "dvc.lock", 0.71), "dvc.lock is damaged", "rm dvc.lock && dvc repro"),
    "a torn list of busy files": (
        lambda p: (p / ".dvc/tmp/rwlock").write_text('{"wri'),
        "which stops every DVC command",
        "",
    ),
    "a wrong parameter": (
        lambda p: (p / "params.yaml").write_text((p / "params.yaml").read_text().replace("beta: 1.0", "beta: -1.0")),
        "params.yaml: variants.vae.beta is -1.0: must be",
        "sed -i s/-1.0/1.0/ params.yaml",
    ),
}


@pytest.fixture
def whole(shared_copy: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a finished project as the working directory."""
    monkeypatch.chdir(shared_copy.folder)
    return shared_copy


def said(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code and the output of the check."""
    code: object = 0
    try:
        check.main()
    except SystemExit as end:
        code = end.code
    assert isinstance(code, int)
    return code, capsys.readouterr().out


WHOLE = 0, "✓ params.yaml, dvc.lock, data and models are in order\n"


def test_what_is_whole_is_whole(whole: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert whole.folder == Path.cwd()
    assert said(capsys) == WHOLE


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_its_remedy_mends_it(kind: str, whole: Project, capsys: pytest.CaptureFixture[str]) -> None:
    damage, sentence, remedy = DAMAGE[kind]
    damage(whole.folder)
    code, problems = said(capsys)
    assert code == 1
    assert sentence in problems
    if not remedy:  # the printed command
        remedy = next(line[4:] for line in problems.splitlines() if line.startswith("  → ")).split(", or")[0]
    done = whole.run("bash", "-c", remedy)
    assert done.returncode == 0, remedy + done.stderr
    assert said(capsys) == WHOLE, remedy
