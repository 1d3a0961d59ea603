"""Effects of changes of parameters and code on a finished DAG."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.tools import compare
from tests.support.browser import opened, violations
from tests.support.project import Project
from tests.system.conftest import Copy

VARIANT = '''"""Mean: gives back the mean of all pixels; the example of a variant of one's own."""

import torch
from torch import Tensor

from aelab.models.base import Autoencoder, Batch, Losses, Shape
from aelab.models.network import NetworkSection


class Mean(Autoencoder):
    """One number for each image, times `gain`."""

    def __init__(self, image: Shape, *, network: NetworkSection, gain: float) -> None:
        super().__init__(image)
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1, keepdim=True)

    def decode(self, z: Tensor) -> Tensor:
        return (self.gain * z).clamp(0, 1)[:, :, None, None].expand(-1, *self.image)

    def loss(self, batch: Batch) -> Losses:
        error = (batch.targets - self.reconstruct(batch.inputs)).square().mean()
        return {"loss": error + 0 * self.gain.square()}  # a gain of 1e30 makes it NaN
'''
MLP = {"name": "mlp", "hidden": [20, 10], "activation": "tanh"}


@pytest.fixture(scope="module")
def changed(copy: Copy) -> Project:
    """Change the finished project in several ways at once; each change lists the stages that must run."""
    project = copy("changed")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "results")
    before, params = project.lock(), project.params()
    entries, inputs = params["variants"], params["corruption"]["train"]
    vae, own = entries["vae"], {"model": "mean", "inputs": "clean", "network": entries["dae"]["network"]}
    (project.folder / "src/aelab/variants/mean.py").write_text(VARIANT)
    inputs["grainy"] = {"noise": {"gaussian": [0.1, 0.2]}, "copies": 3}
    entries["vae"] = vae | {"beta": 4.0}
    entries["vae-mlp"] = vae | {"network": MLP, "beta": 0.5, "inputs": "grainy"}
    entries["mean"] = own | {"gain": 1.0}
    entries["wild"] = own | {"gain": 1e30}
    project.write_params(params)
    ran = project.side_by_side()
    new = entries.keys() - {"dae", "vqvae", "pca"}
    by_entry = [f"{stage}@{name}" for name in new for stage in ("train", "evaluate")]
    assert sorted(ran) == sorted(["sources", "corrupt@grainy", "report", *by_entry])
    different = {path for path, digest in project.lock().items() if before.get(path) != digest}
    touched = re.compile("|".join([*new, "grainy", "sources", "^reports/"]))
    assert not [path for path in different if not touched.search(path)]
    return project


def table(project: Project) -> Any:
    return pd.read_csv(project.folder / "reports/comparison.csv", keep_default_na=False)


def test_two_revisions_stand_side_by_side(changed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit has `beta` 1, the results on disk have `beta` 4."""
    done = changed.run(sys.executable, "-m", "pipeline.tools.compare", "HEAD", "workspace", "two.html")
    assert done.returncode == 0, done.stderr
    page, beside = changed.folder / "two.html", changed.folder / "two.csv"
    html = page.read_text()
    assert "<title>vae: beta = 1, 4</title>" in html
    assert "vae beta=1 → vae beta=4" in html
    assert "<code>beta</code>: 1.0 → 4.0" in html
    assert 'id="entry-vae-beta=4"' in html
    assert html.count('id="entry-vqvae') == 1  # equal in both, so it appears once
    assert "mean is from workspace" in html
    rows = pd.read_csv(beside)
    assert list(rows[rows["entry"] == "vae"]["beta"]) == [1, 4]
    assert list(rows["entry"]) == ["dae", "vae", "vae", "vqvae", "vae-mlp", "mean", "wild", "pca"]
    before, after = (
        pd.read_csv(text).groupby("entry")["validation_mse"].mean()["vae"]
        for text in (changed.folder / "reports/comparison.csv", io.StringIO(committed(changed)))
    )
    assert list(rows[rows["entry"] == "vae"]["validation_mse"]) == pytest.approx([after, before])
    with opened(page.as_uri()) as (opened_page, wrong):
        assert violations(opened_page) == []
        assert opened_page.locator("a[href='#entry-vae-beta=4']").count() > 3
    assert wrong == []
    monkeypatch.chdir(changed.folder)
    page.write_text("an earlier one")
    compare.main(revisions=["HEAD", "workspace"], page=page, experiments=False, force=True)
    assert page.read_text() == html
    page.unlink()
    beside.unlink()
    assert done.stdout.splitlines()[0].startswith("| entry")


def committed(project: Project) -> str:
    return project.run("git", "show", "HEAD:reports/comparison.csv").stdout


@pytest.mark.parametrize(
    ("revisions", "page", "said"),
    [
        (["HEAD", "workspace"], "README.html", "README.html exists already: --force overwrites it"),
        (["HEAD", "workspace"], "table.html", "table.csv exists already: --force overwrites it"),
        (["no-such", "HEAD"], "other.html", "no-such is not a known revision or experiment: "),
        (["HEAD", "no/such"], "other.html", "no/such is not a known revision or experiment: "),
        (["HEAD"], "workspace", "workspace: the last argument is the page to write, which ends in .html"),
        (["HEAD"], "no/other.html", "no/other.html: there is no folder no to write it to"),
        ([], "other.html", "name revisions or experiments, or use --experiments for all experiments on HEAD"),
        (
            ["HEAD~1"],
            "other.html",
            "DVC's cache lacks some results of HEAD~1: run `dvc pull`, or run the revision again (",
        ),
    ],
)
def test_what_cannot_be_compared_is_a_sentence_and_writes_nothing(
    changed: Project, monkeypatch: pytest.MonkeyPatch, revisions: list[str], page: str, said: str
) -> None:
    monkeypatch.chdir(changed.folder)
    for there in ("README.html", "table.csv"):
        Path(there).write_text("mine")
    with pytest.raises(SystemExit) as error:
        compare.main(revisions=revisions, page=Path(page), experiments=False)
    assert str(error.value.code).startswith(said)
    assert not Path("other.html").exists()
    assert Path("README.html").read_text() == Path("table.csv").read_text() == "mine"


def test_without_experiments_there_is_no_sweep(changed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(changed.folder)
    with pytest.raises(SystemExit) as error:
        compare.main(page=Path("other.html"), experiments=True)
    assert str(error.value.code).startswith("there are no experiments on HEAD: `dvc exp list --all-commits`")


def test_settings_of_one_model_stand_side_by_side(changed: Project) -> None:
    rows = table(changed)
    assert rows["entry"].unique().tolist() == ["dae", "vae", "vqvae", "vae-mlp", "mean", "wild", "pca"]
    assert rows["model"].unique().tolist() == ["dae", "vae", "vqvae", "mean", "pca"]
    text = (changed.folder / "reports/comparison.md").read_text().replace(" ⚠", "")
    network = "network.name | network.width | network.downsampling"
    assert f"|  | model | inputs | {network} | beta | network.hidden | network.activation | gain |" in text
    assert "| vae | vae | clean | patches | 8 | 4 | 4.0 | – | – | – |" in text
    assert "| vae-mlp | vae | grainy | mlp | – | – | 0.5 | [20, 10] | tanh | – |" in text


def test_a_new_corruption_is_written_as_it_says(changed: Project) -> None:
    clean, copies = (np.load(changed.folder / "data" / name / "train/images.npy") for name in ("clean", "grainy"))
    assert copies.shape == (3 * len(clean), *clean.shape[1:])
    assert not any(np.array_equal(clean, copy) for copy in np.split(copies, 3))
    rows = table(changed)
    assert set(rows[rows["entry"] == "vae-mlp"]["status"]) == {"finished"}


def test_a_new_variant_is_one_file_and_one_entry(changed: Project) -> None:
    rows = table(changed)
    assert rows[rows["entry"] == "mean"]["status"].tolist() == ["finished", "finished"]
    assert rows[rows["entry"] == "mean"]["perplexity"].tolist() == ["n/a", "n/a"]


def test_a_diverged_run_says_so_and_does_not_rank(changed: Project) -> None:
    rows = table(changed)
    row = rows[rows["entry"] == "wild"].iloc[0]
    assert row["status"].startswith("autoencoder diverged at step 1: loss is nan from the start")
    assert row["mse"] == "n/a"
    text = (changed.folder / "reports/comparison.md").read_text()
    assert re.search(
        r"\*\*wild, seeds 0 and 1: autoencoder diverged at step 1: .*; no number below includes this seed\*\*", text
    )
    glance = text.split("## At a glance")[1].split("\n## ")[0]
    (line,) = re.findall(r"^\| wild \|.*$", glance, re.MULTILINE)
    assert re.fullmatch(r"\| wild \|( – \|){2}( diverged \|)+", line)


def test_removed_entries_leave_the_report_and_earlier_settings_come_back(changed: Project) -> None:
    """Last test: it removes entries that the other tests need."""
    changed.git("checkout", "--quiet", "HEAD", "--", "params.yaml")
    assert changed.repro() == ["sources", "report"]  # finished trainings come from the run cache
    assert table(changed)["entry"].unique().tolist() == ["dae", "vae", "vqvae", "pca"]
