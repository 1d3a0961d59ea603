"""CONTRIBUTING.md shows how to add a variant, a network and a data set; these tests follow its instructions."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor

from aelab import variants
from aelab.models.base import VARIANTS
from aelab.models.checkpoint import build
from tests.support.markdown import Block, blocks
from tests.support.project import REPOSITORY, Project
from tests.support.toys import IMAGE, PARAMETERS, batch
from tests.system.conftest import Copy

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAME = "huber"
ADDED = [
    "src/aelab/variants/huber.py",
    "src/aelab/networks/linear.py",
    "src/aelab/data/datasets.py",
    "src/aelab/ingest/downloads.py",
]


def follow(text: str, folder: Path, content: dict[str, Any]) -> list[str]:
    """Follow the paragraph above each block of code; return the files that change.

    `content` is the content of params.yaml, and is changed too.
    """
    touched = []
    for block in blocks(text):
        if block.language == "python":
            touched.append(_add(block, folder))
        elif block.language == "yaml":
            added = YAML(typ="safe", pure=True).load(block.code)
            if "add to `variants` in `params.yaml`" in block.above:
                content["variants"] |= added
            else:
                assert "set in `params.yaml`" in block.above, block.above
                for section, keys in added.items():
                    content[section] |= keys
    return touched


def _add(block: Block, folder: Path) -> str:
    """Save a file, or add lines to an existing file."""
    name = next(name for name in block.above.split("`")[::-1] if name.endswith(".py"))
    path = folder / name
    if f"ave it as `{name}`:" in block.above:
        assert not path.exists(), path
        path.write_text(block.code, encoding="utf-8")
    else:
        assert f"ut it at the end of `{name}`:" in block.above, block.above
        path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{block.code.rstrip()}\n", encoding="utf-8")
    return name


@pytest.fixture(scope="module")
def project(copy: Copy) -> Project:
    return copy("contributed")


@pytest.fixture(scope="module")
def followed(project: Project) -> Project:
    """Follow all instructions of the document, with a budget of a few steps."""
    content = project.params()
    content["variants"] = {}
    content["seeds"] = [0]
    content["training"] |= {"steps": 20, "validations": 2, "validation_images": 64}
    content["corruption"]["train"] = {}
    content["corruption"]["test"] = {"masking": [0.5]}
    content["evaluation"] |= {"images": 4, "samples": 4, "noisy_images": 10}
    content["evaluation"]["classifier"]["steps"] = 10
    assert follow(TEXT, project.folder, content) == ADDED
    project.write_params(content)
    return project


def test_what_it_adds_runs_through_the_whole_dag(followed: Project) -> None:
    ran = followed.side_by_side()
    assert {"download", "train@huber", "evaluate@huber", "train@ae-linear", "evaluate@ae-linear"} <= set(ran)
    rows = pd.read_csv(followed.folder / "reports/comparison.csv", keep_default_na=False)
    assert rows["entry"].tolist() == ["huber", "ae-linear"]
    assert rows["status"].tolist() == ["finished", "finished"]
    assert rows["dataset"].tolist() == ["bars", "bars"] if "dataset" in rows else True


def test_what_it_adds_is_in_the_style_of_the_house(followed: Project) -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", "check", *ADDED],
                          cwd=followed.folder, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "mistakes",
    [
        [
            ("import huber_loss", "import hubers_loss", "variants/huber.py cannot be used"),
            ("class LinearNetwork(Network)", "class LinearNetwork(Networks)", "networks/linear.py cannot be used"),
        ],
        [
            ("delta: 0.1", "dellta: 0.1", "variants.huber.dellta is an unknown key; known here"),
            ("network: {name: linear}", "network: {name: linera}", "unknown network 'linera'"),
            ('DATASETS["bars"]', 'DATASETS["bar"]', 'dataset.name is "bars": must be one of'),
        ],
    ],
)
def test_a_mistake_in_the_document_is_noticed(mistakes: list[tuple[str, str, str]], tmp_path: Path) -> None:
    text, project = TEXT, Project(tmp_path)
    for line, broken, _ in mistakes:
        assert TEXT.count(line) == 1
        text = text.replace(line, broken)
    content = project.params()
    follow(text, project.folder, content)
    project.write_params(content)
    done = project.run(sys.executable, "-m", "pipeline.tools.check")
    assert done.returncode == 1
    for _, _, sentence in mistakes:
        assert sentence in done.stdout


@pytest.mark.parametrize("instruction", ["Save it as `src/aelab/variants/huber.py`", "and set in `params.yaml`"])
def test_a_block_without_its_instruction_is_noticed(instruction: str, tmp_path: Path) -> None:
    assert TEXT.count(instruction) == 1
    project = Project(tmp_path)
    with pytest.raises((AssertionError, StopIteration)):
        follow(TEXT.replace(instruction, "There is more"), project.folder, project.params())


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make only the variant available in this process."""
    assert NAME not in VARIANTS.available()
    code = next(block.code for block in blocks(TEXT) if f"variants/{NAME}.py`" in block.above)
    (tmp_path / f"{NAME}.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr("aelab.variants.__path__", [str(tmp_path), *variants.__path__])


@pytest.mark.usefixtures("added")
def test_the_variant_that_it_adds_learns(x: Tensor, generator: torch.Generator) -> None:
    model = build(NAME, IMAGE, PARAMETERS["ae"] | {"delta": 0.1}, seed=0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(50):
        loss = model.loss(batch(x, x, generator))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.usefixtures("added")
def test_its_error_is_squared_below_delta_and_absolute_above(x: Tensor, generator: torch.Generator) -> None:
    for delta in (2.0, 1e-6):
        model = build(NAME, IMAGE, PARAMETERS["ae"] | {"delta": delta}, seed=0)
        error = (x - model.reconstruct(x)).abs()
        expected = error.square() / 2 if delta > 1 else delta * error
        loss = model.loss(batch(x, x, generator))["loss"]
        torch.testing.assert_close(loss, expected.flatten(1).sum(1).mean(), rtol=1e-4, atol=0.0)


ROWS = [row for row in TEXT.splitlines() if re.match(r"\| `.*\d+ lines", row) and "_restore_outputs" not in row]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("`")[1])
def test_the_lengths_of_own_code_are_today_s(row: str) -> None:
    """The numbers of lines in the table of own code are right within a tenth."""
    files = [REPOSITORY / name for name in re.findall(r"`([\w/]+\.py)`", row.split("|")[1])]
    found = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    (said,) = re.findall(r"(\d+) lines", row)
    assert abs(int(said) - found) <= 0.1 * found, f"{said} lines in CONTRIBUTING.md, {found} lines in the files"


def test_the_table_of_own_code_is_found() -> None:
    assert len(ROWS) > 10
