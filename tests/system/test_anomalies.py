"""The steps of docs/anomalies.md on small drawn images: from a folder with two kinds of images to a ranked sheet.

The stages run one after the other in this process, instead of `make repro`.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from aelab.core import arrays, disk
from aelab.evaluation import per_image
from aelab.inference import cli
from aelab.report.claims import CLAIMS
from aelab.report.evidence import Entry, Evidence
from aelab.report.verdicts import Verdict, judge
from pipeline.common import params, paths
from pipeline.reporting import report_entries
from pipeline.reporting.results import ReportEntry
from pipeline.stages import classify, download, evaluate, noise, sources, train
from pipeline.tools.recipe import merged
from pipeline.training.training_folder import TrainingFolder
from tests.support.browser import BROWSER, DESK, PHONE, opened
from tests.support.markdown import blocks
from tests.support.parameters import DEFAULT
from tests.support.project import REPOSITORY

PAGE = (REPOSITORY / "docs/anomalies.md").read_text(encoding="utf-8")
GOOD, SCRATCHED = 60, 20
SMALL: dict[str, Any] = {
    "dataset": {"folders": {"parts": {"test": 0.3}}},
    "seeds": [0, 1],
    "training": {"steps": 30},
    "corruption": {"train": {}, "test": {"masking": [0.5]}},
    "evaluation": {
        "images": 4, "samples": 16, "noisy_images": 8, "importance": {"samples": 5, "images": 4},
        "classifier": {"steps": 4},
    },
}  # fmt: skip


def part(rng: np.random.Generator, *, scratched: bool) -> NDArray[np.uint8]:
    """Draw a bright disc near the middle, with dark lines across it if `scratched`."""
    row, column = np.mgrid[:32, :32]
    centre = rng.uniform(12, 20, 2)
    image = np.where((row - centre[0]) ** 2 + (column - centre[1]) ** 2 < 80, 200, 20)
    if scratched:
        image[(row + column + int(rng.integers(-6, 7))) % 16 < 3] = 90
    return (image + rng.integers(-15, 16, image.shape)).astype(np.uint8)


def draw(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, count in (("good", GOOD), ("scratched", SCRATCHED)):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(part(rng, scratched=kind == "scratched")).save(folder / kind / f"{i}.png")


def wanted() -> dict[str, Any]:
    """Return the parameters that the page writes, with fewer steps and fewer, smaller entries."""
    (block,) = [block for block in blocks(PAGE) if block.language == "yaml"]
    found = merged(merged(DEFAULT, YAML(typ="safe", pure=True).load(block.code)), SMALL)
    vae, pca = ({**found["variants"][name], "code": 4} for name in ("vae", "pca"))
    vae["network"] = {**vae["network"], "width": 8}
    del vae["training"]
    found["corruption"]["train"] = {}
    return found | {"variants": {"vae": vae, "pca": pca, "identity": found["variants"]["identity"]}}


def evaluated(checked: params.Params, name: str) -> tuple[Entry, list[dict[str, Any]]]:
    """Train and evaluate an entry; return it with the metrics of each image, and a row for each seed."""
    kept, rows = {}, list[dict[str, Any]]()
    for seed in checked.seeds_of(name):
        train.train_seed(checked, name, seed)
        TrainingFolder.of(name, seed, checked, train._machine(checked)).hand_over(name, seed)
        result, *kept[seed] = evaluate.evaluate(checked, name, seed)
        rows.append({"entry": name, "seed": seed, "undefined": result["undefined"]} | result["metrics"]["test"])
    folder, count = paths.EVALUATION / name, len(arrays.read(paths.images(paths.CLEAN, "test")))
    whole = count + len(arrays.read(paths.ANOMALIES))
    for file, place, size in ((per_image.FILE, 0, count), (per_image.SCORES, 1, whole)):
        per_image.write(folder / file, {seed: each[place] for seed, each in kept.items()}, size)
    images = ReportEntry._images(cast("Any", SimpleNamespace(finished=[SimpleNamespace(folder=folder / "seed0")])))
    section = checked.variants[name]
    about = {"inputs": "clean", "code": getattr(section, "code", 1024)}
    return Entry(name, result["pixels"], about, floor=result["floor"], dimensions=1024, **images), rows


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Follow all steps of the page; return the folder, the checked parameters and the evidence."""
    folder = tmp_path_factory.mktemp("parts")
    for name in ("src", "pipeline", "dvc.yaml", "requirements.lock"):
        (folder / name).symlink_to(REPOSITORY / name)
    draw(folder / "images/parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(tempfile, "tempdir", tempfile.tempdir)  # a training sets its own folder
        YAML().dump(wanted(), Path("params.yaml"))
        checked = params.check(wanted())
        download.work(checked, {})
        noise.work(checked, {})
        classify.work(checked, {})
        sources.main()
        done = [evaluated(checked, name) for name in checked.variants]
        evidence = Evidence([entry for entry, _ in done], pd.DataFrame([row for _, rows in done for row in rows]))
        (command,) = (line for block in blocks(PAGE) for line in block.code.splitlines() if line.startswith("aelab"))
        with pytest.raises(SystemExit) as end:
            cli.main(command.split()[1:])
        assert end.value.code == 0
        yield SimpleNamespace(folder=folder, params=checked, evidence=evidence)
    BROWSER.end()


def test_nothing_is_learned_from_the_strange_ones(project: Any) -> None:
    data = project.folder / "data/clean"
    assert all(set(np.load(data / split / "labels.npy")) == {0} for split in ("train", "validation", "test"))
    strange = np.load(data / "test/anomalies.npy")
    assert 2 <= len(strange) < SCRATCHED
    assert strange.shape[1:] == (1, 32, 32)
    assert all(each.min() < 150 < each.max() for each in strange)  # the images are unchanged
    disk.check(data / "test")


def test_the_report_says_how_well_each_score_tells_them_apart(project: Any) -> None:
    rows = project.evidence.results.groupby("entry").mean(numeric_only=True)
    assert rows.loc["pca", "auroc_mse"] > 0.8
    of_entry = {name: set(rows.filter(like="auroc_").loc[name].dropna().index) for name in rows.index}
    assert of_entry == {
        "vae": {"auroc_mse", "auroc_neg_elbo", "auroc_rate", "auroc_nearest"},
        "pca": {"auroc_mse", "auroc_nearest"},
        "identity": {"auroc_nearest", "auroc_intensity", "auroc_png"},
    }
    lacking = project.evidence.results.groupby("entry")["undefined"].first()
    assert lacking["pca"]["auroc_rate"] == "the code is a point: there is no q(z|x) and no prior p(z)"
    assert lacking["identity"]["ap_mse"] == "the model returns its input"
    aurocs, precisions = report_entries._anomalies(project.params, project.evidence)
    assert aurocs.note.startswith("Anomalies: the held-out class scratched, against test images.")
    assert "95 % interval over seeds and test images" in aurocs.note
    assert (aurocs.title, precisions.title) == ("Anomalies", "Anomalies, average precision")
    for table in (aurocs, precisions):
        assert [row[0] for row in table.rows] == ["vae", "pca", "identity"]
        assert table.floors == ["pca", "identity"]
        assert [row.count("–") for row in table.rows] == [2, 4, 3]
    for name in ("mse", "rate"):  # the table's mean is scikit-learn's value
        (vae, *_) = project.evidence.entries
        assert project.evidence.mean(vae, f"auroc_{name}").mean == pytest.approx(rows.loc["vae", f"auroc_{name}"])
    count = len(np.load(project.folder / "data/clean/test/labels.npy"))
    assert report_entries._images(project.params, project.evidence) == f"parts ({count} test images)"


def test_the_claim_is_judged_and_without_anomalies_it_is_not(project: Any) -> None:
    claim = next(claim for claim in CLAIMS if claim.key == "strange")
    assert judge(claim, project.evidence).verdict is not Verdict.UNTESTED
    without = project.evidence.results.drop(columns="auroc_neg_elbo")
    assert judge(claim, Evidence(project.evidence.entries, without)).verdict is Verdict.UNTESTED


def test_the_sheet_ranks_them(project: Any) -> None:
    table = pd.read_csv(project.folder / "scores.csv")
    assert len(table) == GOOD + SCRATCHED
    assert table["mse"].is_monotonic_decreasing
    assert {"mse_percentile", "neg_elbo_percentile", "rate_percentile"} <= set(table)
    strange = table["image"].str.startswith("scratched")
    assert table[strange]["neg_elbo_percentile"].mean() > table[~strange]["neg_elbo_percentile"].mean()
    assert len(list((project.folder / "maps").rglob("*.png"))) == GOOD + SCRATCHED


@pytest.mark.parametrize(("theme", "width"), [("light", PHONE), ("dark", DESK)])
def test_the_sheet_is_a_page_by_itself(project: Any, theme: Literal["light", "dark"], width: int) -> None:
    sheet: Path = project.folder / "sheet.html"
    with opened(sheet.as_uri(), theme=theme, width=width) as (page, wrong):
        assert page.locator("li").count() == 24
        assert page.evaluate("[...document.images].every(each => each.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert wrong == []
