import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.tools import taste
from tests.support.project import REPOSITORY

RUNNER = '#!/bin/sh\necho "$*" >> ran\necho "| a table |"\nexit ${FAILS:-0}\n'


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository with the default parameters whose Python only records its arguments and folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("params.yaml", ".gitignore"):
        Path(name).write_text((REPOSITORY / name).read_text(encoding="utf-8"), encoding="utf-8")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "start")
    runner = tmp_path / "runner"
    runner.write_text(RUNNER, encoding="utf-8")
    runner.chmod(0o755)
    monkeypatch.setattr("pipeline.tools.taste.sys.executable", str(runner))
    return folder


def narrow() -> None:
    """Commit a change of the parameters."""
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("code: 32", "code: 16"), encoding="utf-8")
    git("commit", "--quiet", "--all", "--message", "narrow")


def parameters(text: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return content


def tasted() -> dict[str, Any]:
    taste.main()
    assert Path("taste/ran").read_text(encoding="utf-8").splitlines()[-1] == "-m pipeline.runner.repro"
    return parameters(Path("taste/params.yaml").read_text(encoding="utf-8"))


def test_a_taste_is_small_and_leaves_the_project_alone(project: Path) -> None:
    before = (project / "params.yaml").read_bytes(), git("status", "--porcelain"), set(project.iterdir())
    small = tasted()
    assert small["dataset"]["name"] == "digits"
    assert small["seeds"] == [0]
    assert small["variants"]["vae"]["training"]["steps"] == taste.LIMITS["steps"]
    assert small["evaluation"]["importance"]["samples"] == taste.LIMITS["samples"]
    after = (project / "params.yaml").read_bytes(), git("status", "--porcelain"), set(project.iterdir())
    assert after == (*before[:2], before[2] | {project / "taste"})


def test_a_taste_ends_with_the_address_of_its_report(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taste.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f" file://{project}/taste/reports/comparison.html")


def test_one_that_fails_shows_no_report(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAILS", "3")
    with pytest.raises(SystemExit) as ended:
        taste.main()
    assert ended.value.code == 3  # the runner's exit code
    assert "file:" not in capsys.readouterr().out
    assert (project / "taste/ran").exists()


@pytest.mark.usefixtures("project")
def test_another_taste_is_of_the_last_commit() -> None:
    assert tasted()["variants"]["ae"]["code"] == 32
    narrow()
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("code: 16", "code: 8"), encoding="utf-8")
    assert tasted()["variants"]["ae"]["code"] == 16


def test_two_revisions_are_set_beside_each_other(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narrow()
    taste.main(base="HEAD^1")
    compare = "-m pipeline.tools.compare base head --force comparison.html"
    ran = (project / "taste/ran").read_text(encoding="utf-8").splitlines()
    assert ran == ["-m pipeline.runner.repro", "-m pipeline.runner.repro", compare]
    codes = {}
    for name in ("base", "head"):
        made = parameters(git("-C", "taste", "show", f"{name}:params.yaml"))
        assert made["seeds"] == taste.COMPARED
        codes[name] = made["variants"]["ae"]["code"]
    assert codes == {"base": 32, "head": 16}
    table = (project / "taste/comparison.md").read_text(encoding="utf-8")
    assert table.startswith("The digits, 3 seeds, few steps: `base` is HEAD^1")
    assert table.endswith("| a table |\n")
    assert capsys.readouterr().out.splitlines()[-1].endswith(f" file://{project}/taste/comparison.html")
    assert git("status", "--porcelain") == ""
    taste.main(base="HEAD^1")  # a second time


def test_a_revision_that_is_not_there_is_named(project: Path) -> None:
    with pytest.raises(SystemExit, match=r"git has no params\.yaml at nowhere"):
        taste.main(base="nowhere")
    assert not (project / "taste").exists()


def test_without_a_commit_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    with pytest.raises(SystemExit, match="git has no params"):
        taste.main()
    assert not Path("taste").exists()
