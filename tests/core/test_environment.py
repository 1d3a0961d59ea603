from pathlib import Path

import pytest
import torch

from aelab.core import devices
from aelab.core.environment import number, whole_number
from aelab.core.errors import UserError
from aelab.training import snapshots
from aelab.training.snapshots import Snapshots


@pytest.mark.parametrize(("text", "value"), [("1", 1), (" 12 ", 12), ("", None)])
def test_a_whole_number_is_read(text: str, value: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AELAB_X", text)
    assert whole_number("AELAB_X") == value


def test_what_is_not_set_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AELAB_X", raising=False)
    assert whole_number("AELAB_X") is None
    assert number("AELAB_X") is None


@pytest.mark.parametrize("text", ["nan", "-0.1", "soon", "1 s"])
def test_a_wrong_number_of_seconds_is_one_sentence(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(snapshots.INTERVAL, text)
    with pytest.raises(UserError, match=f"{snapshots.INTERVAL} is '{text}': it must be a number of at least 0"):
        Snapshots(tmp_path)


def test_seconds_need_not_be_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(snapshots.INTERVAL, "0.25")
    assert Snapshots(tmp_path).every == 0.25


@pytest.mark.parametrize("text", ["0", "1.5", "much"])
def test_a_wrong_size_is_one_sentence(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.MEMORY, text)
    with pytest.raises(UserError, match=f"{devices.MEMORY} is '{text}': it must be a whole number of at least 1"):
        devices.room(torch.device("cpu"))


def test_a_size_is_in_mebibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.MEMORY, "3")
    assert devices.room(torch.device("cpu")) == 3 * 2**20
