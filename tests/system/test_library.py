"""What a notebook uses: the code of docs/library.md, run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import aelab
from tests.support.project import REPOSITORY

PAGE = (REPOSITORY / "docs" / "library.md").read_text(encoding="utf-8")


def test_the_pages_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 8
    names: dict[str, Any] = {}
    before = {}
    for block in blocks:
        if "aelab.load(" in block:
            before = {key: value.clone() for key, value in names["model"].state_dict().items()}
        exec(block, names)  # noqa: S102
    assert [len(each) for each in (names["photos"].train, names["photos"].validation, names["photos"].test)] == [
        29,
        3,
        8,
    ]
    assert names["photos"].image == (3, 16, 16)
    told = re.search(r"^# (images to corrupt .*)\n# (.*)$", PAGE, re.MULTILINE)
    assert told
    assert " ".join(told.groups()) in capsys.readouterr().out
    assert names["z"].shape == (10, 8)
    assert names["samples"].shape == names["images"][:5].shape == (5, 1, 8, 8)
    assert names["values"]["mse"] < 0.09  # that of the mean image
    assert all(torch.equal(value, names["model"].state_dict()[key]) for key, value in before.items())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["vae.safetensors"]


def test_every_name_is_there_and_no_other() -> None:
    assert set(aelab.__all__) == set(aelab.HOMES)
    assert all(callable(getattr(aelab, name)) for name in aelab.__all__)
    with pytest.raises(AttributeError, match="it offers Budget"):
        _ = aelab.fit


def test_importing_it_is_cheap() -> None:
    script = "import sys, aelab; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
