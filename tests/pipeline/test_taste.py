import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.tools import taste
from tests.support.project import REPOSITORY


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments], check=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the default parameters, whose runner of the pipeline writes a line where it runs."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((REPOSITORY / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    git("init", "--quiet")
    git("add", "params.yaml")
    git("commit", "--quiet", "--message", "start")
    runner = tmp_path / "runner"
    runner.write_text('#!/bin/sh\necho "$*" > ran\nexit 3\n', encoding="utf-8")
    runner.chmod(0o755)
    monkeypatch.setattr("pipeline.tools.taste.sys.executable", str(runner))
    return tmp_path


def tasted() -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        taste.main()
    assert ended.value.code == 3  # what the runner says
    assert Path("taste/ran").read_text(encoding="utf-8") == "-m pipeline.runner.repro\n"
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(Path("taste/params.yaml"))
    return content


def test_a_taste_is_small_and_leaves_the_project_alone(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    parameters = tasted()
    assert parameters["dataset"]["name"] == "digits"
    assert parameters["seeds"] == [0]
    assert parameters["variants"]["vae"]["training"]["steps"] == taste.LIMITS["steps"]
    assert parameters["evaluation"]["importance"]["samples"] == taste.LIMITS["samples"]
    assert (project / "params.yaml").read_bytes() == before


def test_another_taste_is_of_the_last_commit(project: Path) -> None:
    tasted()
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(text.replace("code: 32", "code: 16"), encoding="utf-8")
    assert tasted()["variants"]["ae"]["code"] == 32
    git("commit", "--quiet", "--all", "--message", "narrow")
    assert tasted()["variants"]["ae"]["code"] == 16


def test_without_a_commit_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    with pytest.raises(SystemExit, match="git has no committed params"):
        taste.main()
    assert not Path("taste").exists()
