"""docs/anomalies.md as it is read: from a folder of two kinds of images to a ranked sheet, on small drawn ones."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from tests.support.browser import PHONE, opened
from tests.support.markdown import blocks
from tests.support.project import REPOSITORY, Project
from tests.system.conftest import small

PAGE = (REPOSITORY / "docs/anomalies.md").read_text(encoding="utf-8")
GOOD, SCRATCHED = 60, 20


def part(rng: np.random.Generator, *, scratched: bool) -> NDArray[np.uint8]:
    """A bright disc somewhere near the middle, maybe with a dark line across it."""
    row, column = np.mgrid[:32, :32]
    centre = rng.uniform(12, 20, 2)
    image = np.where((row - centre[0]) ** 2 + (column - centre[1]) ** 2 < 80, 200, 20)
    if scratched:
        image[(row + column + int(rng.integers(-6, 7))) % 16 < 3] = 90
    return (image + rng.integers(-15, 16, image.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """What the page's blocks leave, its `make repro` being the runner that it starts."""
    made, rng = Project(tmp_path_factory.mktemp("anomalies") / "project"), np.random.default_rng(0)
    small(made)
    for kind, count in (("good", GOOD), ("scratched", SCRATCHED)):
        folder = made.folder / "images/parts" / kind
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(part(rng, scratched=kind == "scratched")).save(folder / f"{i}.png")
    params, (block,) = made.params(), [block for block in blocks(PAGE) if block.language == "yaml"]
    params["dataset"] |= YAML(typ="safe", pure=True).load(block.code)["dataset"]
    params["dataset"]["folders"]["parts"]["test"] = 0.3
    params["variants"] = {name: params["variants"][name] for name in ("vae", "pca")}
    params["variants"]["identity"] = {"model": "identity", "inputs": "clean"}
    params["variants"]["pca"]["code"] = params["variants"]["vae"]["code"] = 4
    params["corruption"]["train"] = {}
    made.write_params(params)
    made.side_by_side()
    (command,) = (line for block in blocks(PAGE) for line in block.code.splitlines() if line.startswith("aelab"))
    done = made.run(*command.split())
    assert done.returncode == 0, done.stderr
    yield made
    made.end()


def test_nothing_is_learned_from_the_strange_ones(project: Project) -> None:
    data = project.folder / "data/clean"
    assert all(set(np.load(data / split / "labels.npy")) == {0} for split in ("train", "validation", "test"))
    strange = np.load(data / "test/anomalies.npy")
    assert 2 <= len(strange) < SCRATCHED
    assert strange.shape[1:] == (1, 32, 32)


def test_the_report_says_how_well_each_score_tells_them_apart(project: Project) -> None:
    rows = pd.read_csv(project.folder / "reports/comparison.csv").groupby("entry").mean(numeric_only=True)
    assert rows.loc["pca", "auroc_mse"] > 0.9
    aurocs = rows.filter(like="auroc")
    measured = {name: set(aurocs.loc[name].dropna().index) for name in rows.index}
    assert measured == {
        "vae": {"auroc_mse", "auroc_neg_elbo", "auroc_rate", "auroc_nearest"},
        "pca": {"auroc_mse", "auroc_nearest"},
        "identity": {"auroc_nearest", "auroc_intensity", "auroc_png"},
    }
    page = (project.folder / "reports/comparison.md").read_text(encoding="utf-8")
    table = page[page.index("Anomalies") :]
    assert "Told from test images: the held-out class scratched." in table
    assert "95 % interval over seeds and test images" in table
    (vae,) = re.findall(r"^\| vae .*?\|.*$", table.partition("average precision")[0], re.MULTILINE)[:1]
    assert vae.count("±") == 4
    assert "Low likelihood marks what is strange" in page


def test_the_sheet_ranks_them(project: Project) -> None:
    table = pd.read_csv(project.folder / "scores.csv")
    assert len(table) == GOOD + SCRATCHED
    assert table["mse"].is_monotonic_decreasing
    strange = table["image"].str.startswith("scratched")
    assert table[strange]["mse_percentile"].mean() > table[~strange]["mse_percentile"].mean()
    assert {"neg_elbo_percentile", "rate_percentile"} <= set(table)
    assert len(list((project.folder / "maps").rglob("*.png"))) == GOOD + SCRATCHED


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_sheet_is_a_page_by_itself(project: Project, theme: str) -> None:
    sheet: Path = project.folder / "sheet.html"
    with opened(sheet.as_uri(), theme=theme, width=PHONE) as (page, wrong):  # type: ignore[arg-type]
        assert page.locator("li").count() == 24
        assert page.evaluate("[...document.images].every(each => each.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
        assert wrong == []
