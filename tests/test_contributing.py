"""CONTRIBUTING.md shows how a variant is added: each line of it works."""

import re
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor

from autoencoders import variants
from autoencoders.checkpoint import build
from autoencoders.variants import VARIANTS
from pipeline import params
from tests.conftest import IMAGE, PARAMETERS, batch
from tests.test_params import REPOSITORY

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAME = "huber"


def block(language: str) -> str:
    """The first block of code in that language."""
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variant, saved where the text says."""
    assert f"src/autoencoders/variants/{NAME}.py" in TEXT
    assert NAME not in VARIANTS.available()
    (tmp_path / f"{NAME}.py").write_text(block("python"), encoding="utf-8")
    monkeypatch.setattr(variants, "__path__", [str(tmp_path)])
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(REPOSITORY / "params.yaml")
    content["variants"] = yaml.load(block("yaml"))
    assert list(params.check(content).variants) == [NAME]


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
