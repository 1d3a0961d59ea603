"""Random overrides by `dvc exp run -S` and random damage of dvc.lock: no change is lost, and there is no traceback."""

import copy
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from aelab.core.errors import UserError
from pipeline.common import params
from pipeline.runner import locks
from pipeline.tools.recipe import literal
from tests.support.parameters import DEFAULT
from tests.support.project import REPOSITORY

COUNT = 150


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    return content


def leaves(content: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, (*at, key))
    else:
        yield at, content


def changed(content: dict[str, Any], at: tuple[str, ...], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(content)
    section = content
    for key in at[:-1]:
        section = section[key]
    section[at[-1]] = value
    return content


KEYS = dict(leaves(DEFAULT))


@pytest.mark.parametrize("key", KEYS)
def test_an_override_arrives_and_changes_nothing_else(key: tuple[str, ...]) -> None:
    """Every key of the default parameters is tested: no two entries share a key."""
    value: Any = {bool: True, int: 7, float: 0.25, str: "other", list: [7], type(None): 7}[type(KEYS[key])]
    apply_overrides("params.yaml", [f"{'.'.join(key)}={literal(value)}"])
    assert read() == changed(DEFAULT, key, value)


def test_with_a_shared_section_an_override_would_be_lost() -> None:
    """The reason why aliases are refused."""
    text = Path("params.yaml").read_text()
    section = (
        "  dae-mixed:\n    model: dae\n    inputs: mixed\n    network: {name: patches, width: 64, downsampling: 4}\n"
    )
    assert section in text
    shared = text.replace("  dae:\n", "  dae: &dae\n").replace(
        section, "  dae-mixed:\n    <<: *dae\n    inputs: mixed\n"
    )
    Path("params.yaml").write_text(shared)
    key = ("variants", "dae", "network", "width")
    apply_overrides("params.yaml", [f"{'.'.join(key)}=128"])
    assert read() != changed(DEFAULT, key, 128)


ODD = (
    "0", "1", "64", "0.5", "-1.5", "1e-3", "nan", "true", "null", "patches", "mlp", "standard", "'x y'", "'~/Pictures'",
    "{name:mlp}", "{path:images}", "{a:1}", "{}", "[0.5]", "[1,2]", "[]", "../x", "ü", "a b", "",
    "'", "[", "choice(1,2)", "${seeds}", "=", "*vae", "<<", "s3://x/y", "1,2", "int(x)",
)  # fmt: skip


def override(rng: random.Random) -> str:
    """Return an override that a user might type or mistype."""
    words = list(rng.choice(list(KEYS)))
    if rng.random() < 0.3:
        del words[rng.randrange(len(words)) :]
    if rng.random() < 0.3 or not words:
        words.insert(rng.randrange(len(words) + 1), rng.choice(["folders", "photos", "vae2", "<<", "", "0", "-", "é"]))
    return (
        rng.choice(["++", "++", "++", "+", "", "~"]) + ".".join(words) + rng.choice(["="] * 9 + [""]) + rng.choice(ODD)
    )


def test_any_override_is_refused_in_a_sentence_or_taken(folder: Path) -> None:
    reached = refused = 0
    for seed in range(COUNT):
        rng = random.Random(seed)
        shutil.copy(REPOSITORY / "params.yaml", folder)
        try:
            apply_overrides("params.yaml", [override(rng) for _ in range(rng.randint(1, 3))])
        except Exception:  # noqa: BLE001, S112 - DVC refuses before the project's code runs
            continue
        reached += 1
        try:
            params.load()
        except UserError as error:
            refused += 1
            assert all(line.startswith("params.yaml") for line in str(error).splitlines())  # noqa: PT017
    assert reached > COUNT / 5
    assert 0 < refused < reached


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    place = tmp_path_factory.mktemp("repo")
    shutil.copy(REPOSITORY / "dvc.yaml", place)
    return Repo.init(str(place), no_scm=True)


WORDS = ("", "\n", "null\n", "[]\n", "stages: {}\n", "schema: '1.0'\n", "schema: '2.0'\nstages:\n", "--- x")
CONFLICT = "<<<<<<< HEAD\n=======\n{}>>>>>>> other\n"


def mutated(text: str, rng: random.Random) -> str:
    """Return a dvc.lock that was truncated, edited, merged or replaced."""
    lines = text.splitlines(keepends=True)
    at, other, place = rng.randrange(len(lines)), rng.randrange(len(lines)), rng.randrange(len(text))
    odd = rng.choice(["\x00", "\t", "é", "{", "-", "x", "\n", ":", "'", "&a ", "*a "])
    word = rng.choice(["md5", "cmd", "outs", "path", "size", "hash"])
    swapped = list(lines)
    swapped[at], swapped[other] = swapped[other], swapped[at]
    return rng.choice(
        [
            text[:place],
            "".join(lines[:at]),
            "".join(lines[:at] + lines[at + 1 :]),
            "".join(lines[:at] + [lines[at]] * 2 + lines[at + 1 :]),
            "".join([*lines[:at], CONFLICT.format(lines[at]), *lines[at + 1 :]]),
            text[:place] + odd + text[place + 1 :],
            "".join(swapped),
            rng.choice(WORDS),
            text.replace(word, rng.choice(["", "x", "- a", "1"])),
        ]
    )


@pytest.mark.parametrize("seed", range(COUNT))
def test_what_is_called_whole_of_a_damaged_lock_dvc_can_read(seed: int, folder: Path, repo: Repo) -> None:
    rng = random.Random(seed)
    text = "\n".join((REPOSITORY / "dvc.lock").read_text(encoding="utf-8").splitlines()[:100]) + "\n"
    (folder / "dvc.lock").write_text(mutated(text, rng), encoding="utf-8")
    problem = locks.damage()
    if problem is not None:
        what, remedy = problem
        assert "dvc.lock" in what
        assert "rm dvc.lock" in remedy
        return
    shutil.copy(folder / "dvc.lock", repo.root_dir)
    Lockfile(repo, str(Path(repo.root_dir, "dvc.lock"))).load()
