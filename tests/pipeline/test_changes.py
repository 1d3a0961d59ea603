"""Tests of the changes since the last commit that a run prints."""

import subprocess
from pathlib import Path

import pytest

from pipeline.runner import changes
from pipeline.runner.changes import PAGE, TABLE


def table(*rows: str) -> str:
    return "\n".join(["entry,seed,mse,psnr,train_seconds,data", *rows, ""])


def rows(*texts: str) -> changes.Rows:
    return changes._read(table(*texts))


BEFORE = rows("ae,0,0.5,20,9,d", "ae,1,0.51,21,9,d", "ae,2,0.49,20,9,d")


def told(now: changes.Rows, before: changes.Rows = BEFORE) -> list[list[str]]:
    return [each.cells for each in changes.changes(before, now)]


def test_what_is_told_from_chance_comes_first_and_what_is_no_other_number_is_left_out() -> None:
    now = rows("ae,0,0.4,23,1,d", "ae,1,0.4101,21,1,d", "ae,2,0.3899,20,1,d", "vae,0,9,9,9,d")
    assert told(now) == [
        ["ae", "MSE ↓", "0.50000", "0.40000", "better"],
        ["ae", "PSNR ↑", "20.33", "21.33", "may be chance"],
    ]
    assert told(rows("ae,0,0.500001,20,1,d", "ae,1,0.51,21,1,d", "ae,2,0.49,20,1,d")) == []
    assert told(rows("ae,0,0.6,20,9,d", "ae,1,0.6101,21,9,d", "ae,2,0.5899,20,9,d"))[0][-1] == "worse"


def test_seeds_are_paired_and_one_is_no_evidence() -> None:
    assert told(rows("ae,1,0.4,21,9,d", "ae,7,99,21,9,d")) == [
        ["ae", "MSE ↓", "0.51000", "0.40000", "one seed: may be chance"]
    ]
    assert told(rows("ae,7,99,21,9,d")) == []


def test_a_metric_that_one_side_lacks_is_no_change() -> None:
    assert told(rows("ae,0,n/a,20,9,d")) == []
    assert told(rows("ae,0,0.4,20,9,d"), before=[{"entry": "ae", "seed": "0", "data": "d"}]) == []


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository whose HEAD has a table."""
    monkeypatch.chdir(tmp_path)
    TABLE.parent.mkdir()
    TABLE.write_text(table("ae,0,0.5,20,9,d"))
    identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], check=True)
    return tmp_path


@pytest.mark.usefixtures("committed")
def test_it_is_said_once_with_the_rest_on_a_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(changes, "MOST", 1)
    TABLE.write_text(table("ae,0,0.4,30,9,d"))
    changes.print_changes()
    said = capsys.readouterr().out
    assert "  ae: PSNR ↑ 20.00 → 30.00 (one seed: may be chance)\n1 more; all changes: reports/changes.md\n" in said
    assert "| ae | MSE ↓ | 0.50000 | 0.40000 | one seed: may be chance |" in PAGE.read_text(encoding="utf-8")
    TABLE.write_text(table("ae,0,0.5,20,1,d"))
    changes.print_changes()
    assert not PAGE.exists()
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("committed")
def test_numbers_of_other_data_or_entries_are_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    for row in ("ae,0,0.4,30,9,e", "vae,0,0.4,30,9,d"):
        TABLE.write_text(table(row))
        changes.print_changes()
        assert capsys.readouterr().out == ""
        assert not PAGE.exists()


def test_without_git_or_an_earlier_table_nothing_is_said(
    committed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    TABLE.write_text(table("ae,0,0.4,30,9,d"))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        changes.print_changes()
    with monkeypatch.context() as patch:
        patch.setenv("GIT_DIR", str(committed / "nowhere"))
        changes.print_changes()
    assert capsys.readouterr().out == ""
