"""The real DAG, end to end, on the embedded digits in a copy of the repository. The tests build on each other."""

import concurrent.futures
import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.support.browser import DESK, PHONE, Theme, opened, overflow, violations
from tests.support.project import SIDE_BY_SIDE, Project, outcomes
from tests.support.servers import Server

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


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    ran = project.side_by_side()
    entries = project.params()["variants"]
    inputs = project.params()["corruption"]["train"]
    by_entry = [f"{stage}@{name}" for name in entries for stage in ("train", "evaluate")]
    assert sorted(ran) == sorted(
        ["download", "noise", "sources", "classify", "report", *(f"corrupt@{name}" for name in inputs), *by_entry]
    )
    return project


def test_reports_hold_every_variant_and_say_what_is_undefined(project: Project) -> None:
    reports = project.folder / "reports"
    rows: Any = pd.read_csv(reports / "comparison.csv", keep_default_na=False).set_index("entry")
    assert rows.index.tolist() == [name for name in project.params()["variants"] for _ in range(2)]
    rows = rows[rows["seed"] == 0]
    columns = (
        "seed mse psnr ssim neg_elbo rate distortion bits_per_dim perplexity codes_used active_units denoising_mse"
    )
    assert set(columns.split()) <= set(rows.columns)
    assert rows.loc["ae", "neg_elbo"] == "n/a"
    assert rows.loc["vae", "perplexity"] == "n/a"
    assert float(rows.loc["vqvae", "perplexity"]) > 1
    assert float(rows.loc["vae", "neg_elbo"]) > 0
    page, text = ((reports / f"comparison.{kind}").read_text() for kind in ("html", "md"))
    for name in rows.index:
        assert f"## {name}" in text
        assert f'id="entry-{name}"' in page
    assert "the code is a point" in text
    for figure in (line.split("](")[1][:-1] for line in text.splitlines() if line.startswith("![")):
        assert (reports / figure).exists(), figure


def test_everybody_can_read_the_report_and_it_asks_for_nothing(project: Project) -> None:
    cases: list[tuple[int, Theme]] = [(PHONE, "dark"), (DESK, "light")]
    for width, theme in cases:
        with opened((project.folder / "reports/comparison.html").as_uri(), width=width, theme=theme) as (page, wrong):
            assert violations(page) == []
            assert overflow(page) == 0
            assert page.locator("svg.chart").count() > 10
        assert wrong == []


def test_every_number_can_be_traced(project: Project) -> None:
    row = pd.read_csv(project.folder / "reports" / "comparison.csv").iloc[0]
    done = project.run("git", "rev-parse", "HEAD")
    assert row["commit"] == done.stdout.strip()
    assert row["uncommitted_changes"] == "params.yaml"
    assert row["data"] == project.lock()["data/clean/train"]
    assert row["device"] in {"cpu", "cuda"}
    assert row["precision"] == "float32"
    assert row["mode"] == ("graph" if row["device"] == "cuda" else "eager")


def test_metrics_are_shown_by_dvc(project: Project) -> None:
    done = project.run("dvc", "metrics", "show", "--json")
    metrics = json.loads(done.stdout)[""]["data"]
    vae, ae = (metrics[f"reports/metrics/{name}.json"]["data"] for name in ("vae", "ae"))
    assert list(vae) == list(ae) == ["validation", "test"]
    assert list(vae["test"]) == ["mse", "denoising_mse", "neg_elbo"]
    assert list(ae["validation"]) == ["mse", "denoising_mse"]


def test_curves_can_be_followed_and_have_the_time_of_every_point(project: Project) -> None:
    lines = (project.folder / "provenance/train/vqvae/seed1.jsonl").read_text().splitlines()
    points = [json.loads(line) for line in lines]
    assert {point["phase"] for point in points} == {"autoencoder", "prior"}
    assert sum("validation_loss" in point for point in points) == 20
    times = [point["time"] for point in points]
    assert times == sorted(times)


def test_dvc_shows_the_curves_by_step(project: Project) -> None:
    done = project.run("dvc", "plots", "show", "--json")
    shown = json.loads(done.stdout)["data"]
    assert "reports/curves/training/vqvae-prior.csv" in shown
    (curve,) = shown["reports/curves/validation/vae-autoencoder.csv"]
    points = curve["content"]["data"]["values"]
    assert [int(point["step"]) for point in points] == list(range(3, 31, 3))
    assert [float(point["seconds"]) for point in points] == sorted(float(point["seconds"]) for point in points)


def test_a_fresh_clone_has_metrics_and_curves(project: Project, tmp_path: Path) -> None:
    """As in git, without DVC's cache."""
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "results")
    project.git("clone", "--quiet", str(project.folder), str(tmp_path / "clone"))
    shown = project.run("dvc", "metrics", "show", "--json", "--all-commits", folder=tmp_path / "clone").stdout
    (metrics,) = [each["data"] for name, each in json.loads(shown).items() if name == "workspace"]
    assert metrics["reports/metrics/vae.json"]["data"]["test"]["mse"] > 0
    diff = project.run("dvc", "plots", "diff", "HEAD", "--json", folder=tmp_path / "clone").stdout
    assert "reports/curves/training/vae-autoencoder.csv" in json.loads(diff)["data"]


def test_nothing_to_do_runs_nothing(project: Project) -> None:
    assert project.repro() == []
    done = project.run(*SIDE_BY_SIDE)
    assert done.stdout == "Data and pipelines are up to date.\n"


def test_runs_are_in_mlflow(project: Project) -> None:
    script = "import mlflow; print(*sorted(mlflow.search_runs(search_all_experiments=True)['tags.mlflow.runName']))"
    done = project.run(sys.executable, "-W", "ignore", "-c", script)
    expected = sorted(f"{name}-seed{seed}" for name in project.params()["variants"] for seed in (0, 1))
    assert done.stdout.split() == expected, done.stderr


def test_the_address_of_make_ui_opens_the_runs_and_leaves_the_machine_alone(project: Project, tmp_path: Path) -> None:
    script = "from aelab.report import mlflow_writer; print(mlflow_writer.page('sqlite:///mlflow.db'))"
    address = project.run(sys.executable, "-c", script).stdout.strip()
    assert address in project.run("make", "--dry-run", "ui").stdout
    server = Server(tmp_path, f"sqlite:///{project.folder / 'mlflow.db'}")
    server.start()
    try:
        with opened(address.replace("http://127.0.0.1:5000", server.uri), width=2400, local=True) as (page, wrong):
            for name in project.params()["variants"]:
                page.get_by_text(f"{name}-seed0", exact=True).first.wait_for(timeout=60_000)
            assert page.get_by_text("validation/mse").count() > 0
        # MLflow asks itself who its user is, and without users it does not know of the question.
        assert [each for each in wrong if not each.endswith("/users/current")] == []
    finally:
        server.signal(signal.SIGKILL)


def test_an_mlflow_that_is_away_is_a_warning(project: Project) -> None:
    done = project.run(
        sys.executable, "-m", "pipeline.reporting.track",
        MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )  # fmt: skip
    assert done.returncode == 0
    assert "warning: the runs could not be written to MLflow" in done.stdout


def test_a_failure_in_the_middle_of_a_stage_loses_nothing(project: Project) -> None:
    contents = _contents(project.folder)
    path = "src/aelab/evaluation/figures.py"
    before = (project.folder / path).read_text()
    (project.folder / path).write_text(before.replace("def code_usage(", "def renamed("))  # noticed after 2 figures
    done = project.run("dvc", "repro", "--force", "--single-item", "evaluate@vqvae")
    (project.folder / path).write_text(before)
    assert done.returncode != 0
    assert _contents(project.folder) == contents


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-m", "pipeline.runner.repro", "--jobs", "2"),
        ("dvc", "repro"),
        ("dvc", "repro", "--force", "--single-item", "train@vae"),
        ("dvc", "repro", "--force", "--single-item", "evaluate@vae"),
    ],
)
def test_bad_parameters_lose_nothing(project: Project, command: tuple[str, ...]) -> None:
    before, contents = (project.folder / "params.yaml").read_text(), _contents(project.folder)
    params = project.params()
    params["variants"]["vae"]["beta"] = -1.0
    params["dataset"]["validation"] = 0.0
    project.write_params(params)
    done = project.run(*command)
    (project.folder / "params.yaml").write_text(before)
    assert done.returncode != 0
    assert "params.yaml: variants.vae.beta is -1.0: must be greater than or equal to 0" in done.stderr
    assert "params.yaml: dataset.validation is 0.0: must be greater than or equal to 0.01" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert _contents(project.folder) == contents


@pytest.mark.parametrize("command", [SIDE_BY_SIDE, ("dvc", "repro")])
def test_an_unknown_key_is_said_even_if_nothing_else_changed(project: Project, command: tuple[str, ...]) -> None:
    before, contents = (project.folder / "params.yaml").read_text(), _contents(project.folder)
    (project.folder / "params.yaml").write_text(before + "experiment: 3\n")
    done = project.run(*command)
    (project.folder / "params.yaml").write_text(before)
    assert done.returncode != 0
    assert "params.yaml: experiment is an unknown key; known here: dataset," in done.stderr
    assert _contents(project.folder) == contents


def _contents(folder: Path) -> dict[str, bytes]:
    places = ("data", "models", "evaluation", "provenance", "reports")
    files = [path for place in places for path in (folder / place).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_name_in_the_parameters_never_reaches_a_shell(project: Project) -> None:
    before = (project.folder / "params.yaml").read_text()
    params = project.params()
    params["variants"]["x'$(touch pwned)'"] = params["variants"]["ae"]
    project.write_params(params)
    done = project.run("dvc", "repro", "--force", "--single-item", "train@x'$(touch pwned)'")
    (project.folder / "params.yaml").write_text(before)
    assert done.returncode != 0
    assert "an entry's name is made of letters, digits, - and _" in done.stderr
    assert not list(project.folder.rglob("pwned"))


def test_own_images_run_through_the_whole_dag(tmp_path: Path) -> None:
    """Photographs of odd sizes and kinds, two of them broken, in an experiment of its own."""
    own = Project(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(30):
        size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
        pixels = np.clip(rng.normal(128, 60, (*size, 3)), 0, 255).astype(np.uint8)
        folder = own.folder / "images" / ("cats" if i % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("L" if i % 5 == 0 else "RGB").save(folder / f"{i}.{'png' if i % 3 else 'jpg'}")
    (own.folder / "images" / "notes.txt").write_text("no image")
    (own.folder / "images" / "empty.png").write_bytes(b"")
    params = own.params()
    params["dataset"]["name"] = "folder"
    params["dataset"]["folder"] |= {"size": 32, "broken": 0.01}
    params["seeds"] = [0]
    params["variants"] = {name: params["variants"][name] for name in ("ae", "vqvae")}
    own.write_params(params)
    done = own.run(*SIDE_BY_SIDE)
    assert done.returncode == 1
    assert "2 of the 32 files in images cannot be used, more than the share dataset.folder.broken, 0.01" in done.stderr
    params["dataset"]["folder"]["broken"] = 0.1
    own.write_params(params)
    ran = own.side_by_side()
    assert ran[0] == "download"
    assert ran[-1] == "report"
    noted = json.loads((own.folder / "provenance" / "download.json").read_text())
    assert noted["left_out"] == {
        "empty.png": "is empty",
        "notes.txt": "is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one",
    }
    assert "2 files were left out" in (own.folder / "reports" / "comparison.md").read_text()
    assert set(np.load(own.folder / "data/clean/train/labels.npy")) == {0, 1}
    assert own.side_by_side() == []
    (own.folder / "images" / "dogs" / "0.jpg").unlink()
    assert own.repro("--dry")[0] == "download"


def test_a_changed_variant_reruns_alone(project: Project) -> None:
    before = project.lock()
    params = project.params()
    params["variants"]["vae"]["beta"] = 4.0
    project.write_params(params)
    assert project.repro() == ["train@vae", "evaluate@vae", "report"]
    changed = {path for path, digest in project.lock().items() if before[path] != digest}
    assert not [path for path in changed if "vae" not in path and not path.startswith("reports/")]


def test_two_revisions_stand_side_by_side(project: Project) -> None:
    """The commit before `beta` became 4, and what lies on disk."""
    command = [sys.executable, "-m", "pipeline.tools.compare", "HEAD", "workspace", "two.html"]
    done = project.run(*command)
    assert done.returncode == 0, done.stderr
    html = (project.folder / "two.html").read_text()
    assert "vae@HEAD → vae@workspace" in html
    assert "<code>beta</code>: 1.0 → 4.0" in html
    assert 'id="entry-ae"' in html  # the same in both, so once
    assert "ae@HEAD<" not in html.replace("vae@HEAD<", "")
    with opened((project.folder / "two.html").as_uri()) as (page, wrong):
        assert violations(page) == []
    assert wrong == []
    again, forced = project.run(*command), project.run(*command, "--force")
    assert (again.returncode, again.stderr) == (1, "two.html is there already: --force writes over it\n")
    assert forced.returncode == 0
    unknown = project.run(sys.executable, "-m", "pipeline.tools.compare", "no-such", "HEAD", "other.html")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("no-such is no revision or experiment that is known here")
    assert not (project.folder / "other.html").exists()
    (project.folder / "two.html").unlink()


def test_settings_of_one_model_stand_side_by_side(project: Project) -> None:
    before = project.params()
    params = project.params()
    vae = params["variants"]["vae"]
    params["variants"] = {
        "vae": vae,
        "vae-beta05": vae | {"beta": 0.5},
        "vae-mlp": vae | {"network": {"name": "mlp", "hidden": [20, 10], "activation": "tanh"}},
    }
    project.write_params(params)
    ran = set(project.side_by_side())
    assert ran == {"train@vae-beta05", "evaluate@vae-beta05", "train@vae-mlp", "evaluate@vae-mlp", "report"}
    rows = pd.read_csv(project.folder / "reports" / "comparison.csv")
    assert rows["entry"].unique().tolist() == ["vae", "vae-beta05", "vae-mlp"]
    assert rows["model"].unique().tolist() == ["vae"]
    text = (project.folder / "reports" / "comparison.md").read_text()
    network = "network.name | network.width | network.downsampling"
    assert f"|  | model | {network} | beta | network.hidden | network.activation |" in text
    assert "| vae-beta05 | vae | patches | 64 | 4 | 0.5 | – | – |" in text
    project.write_params(before)
    assert project.repro() == ["report"]


def test_a_new_corruption_is_written_alone_and_only_its_entries_run(project: Project) -> None:
    before = project.params()
    params = project.params()
    params["corruption"]["train"]["grainy"] = {"noise": {"gaussian": [0.1, 0.2]}, "copies": 3}
    params["variants"] = {"dae": params["variants"]["dae"], "vae": params["variants"]["vae"] | {"inputs": "grainy"}}
    project.write_params(params)
    assert set(project.side_by_side()) == {"corrupt@grainy", "train@vae", "evaluate@vae", "report"}
    clean, copies = (np.load(project.folder / "data" / name / "train/images.npy") for name in ("clean", "grainy"))
    assert copies.shape == (3 * len(clean), *clean.shape[1:])
    assert not any(np.array_equal(clean, copy) for copy in np.split(copies, 3))
    row = pd.read_csv(project.folder / "reports" / "comparison.csv", keep_default_na=False).iloc[-1]
    assert row["status"] == "finished"
    params["corruption"]["train"]["masked"]["noise"] = {"masking": [0.6]}
    project.write_params(params)
    assert set(project.side_by_side()) == {"corrupt@masked", "train@dae", "evaluate@dae", "report"}
    project.write_params(before)
    assert project.repro() == ["report"]


def test_inputs_that_nothing_writes_are_one_sentence(project: Project) -> None:
    before, contents = (project.folder / "params.yaml").read_text(), _contents(project.folder)
    params = project.params()
    params["variants"]["dae"]["inputs"] = "maskd"
    project.write_params(params)
    done = project.run(*SIDE_BY_SIDE)
    (project.folder / "params.yaml").write_text(before)
    assert done.returncode == 1
    assert done.stderr.strip().startswith('params.yaml: variants.dae.inputs is "maskd": must be clean or the name of')
    assert len(done.stderr.strip().splitlines()) == 1
    assert _contents(project.folder) == contents


def test_a_new_variant_is_one_file_and_one_entry(project: Project) -> None:
    (project.folder / "src/aelab/variants/mean.py").write_text(VARIANT)
    params = project.params()
    params["variants"]["mean"] = params["variants"]["dae"] | {"model": "mean", "gain": 1.0}
    del params["variants"]["mean"]["code"]
    project.write_params(params)
    assert sorted(project.repro()) == ["evaluate@mean", "report", "sources", "train@mean"]
    rows = pd.read_csv(project.folder / "reports" / "comparison.csv", keep_default_na=False)
    assert rows["entry"].tolist()[-1] == "mean"
    assert rows["perplexity"].tolist()[-1] == "n/a"


def test_a_diverged_run_says_so_and_does_not_rank(project: Project) -> None:
    params = project.params()
    params["variants"]["mean"]["gain"] = 1e30
    project.write_params(params)
    project.repro()
    row = pd.read_csv(project.folder / "reports" / "comparison.csv", keep_default_na=False).iloc[-1]
    assert row["status"].startswith("autoencoder diverged at step 1: loss is nan from the start")
    assert row["mse"] == "n/a"
    text = (project.folder / "reports" / "comparison.md").read_text()
    assert re.search(r"\*\*mean, seed 0: autoencoder diverged at step 1: .*; it counts nowhere below\*\*", text)
    results = text.split("## Results")[1].split("\n## ")[0]
    glance = results.split("\n### ")[1]
    (line,) = re.findall(r"^\| mean \|.*$", results, re.MULTILINE)
    assert line in glance
    assert re.fullmatch(r"\| mean \|( diverged \|)+", line)


def test_a_removed_variant_leaves_the_report(project: Project) -> None:
    params = project.params()
    del params["variants"]["mean"]
    params["variants"]["vae"]["beta"] = 1.0
    project.write_params(params)
    assert project.repro() == ["report"]  # the earlier beta comes back from the run cache
    assert "mean" not in pd.read_csv(project.folder / "reports" / "comparison.csv")["entry"].tolist()


def test_a_killed_stage_leaves_the_others_results_and_a_clean_rerun(project: Project) -> None:
    params = project.params()
    for name in ("ae", "vae"):
        params["variants"][name]["network"]["width"] = 16
    project.write_params(params)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(project.run, *SIDE_BY_SIDE)
        while not project.processes("train@vae", "pipeline.stages.train"):
            assert not running.done(), running.result().stdout
            time.sleep(0.05)
        project.processes("train@vae", "pipeline.stages.train")[0].kill()
    done = running.result()
    assert done.returncode == 1
    assert outcomes(done.stdout, "done") == ["train@ae", "evaluate@ae"]
    assert outcomes(done.stdout, "failed") == ["train@vae"]
    assert "train@vae failed. Its output" in done.stderr
    assert "failed: train@vae; not run for that reason: evaluate@vae, report" in done.stderr
    assert not project.processes("train@vae", "pipeline.stages.train")
    assert sorted(project.side_by_side()) == ["evaluate@vae", "report", "train@vae"]
    assert project.repro() == []


def test_a_killed_training_goes_on_to_the_same_bits(project: Project) -> None:
    """And to one run with one curve in MLflow."""
    params = project.params()
    params["variants"] = {"vae": params["variants"]["vae"] | {"training": {"steps": 1500}}}
    project.write_params(params)
    stage = ("dvc", "repro", "--no-run-cache", "--single-item", "train@vae")
    bits = []
    for killed in (True, False):
        shutil.rmtree(project.folder / "checkpoints")
        if killed:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                running = pool.submit(lambda: project.run(*stage, AELAB_CHECKPOINT="0.05"))
                while not list((project.folder / "checkpoints").glob("vae-seed1-*/last.safetensors")):
                    assert not running.done(), running.result().stdout
                    time.sleep(0.05)
                project.processes("train@vae", "pipeline.stages.train")[0].kill()
            assert running.result().returncode != 0
            shown = project.run(sys.executable, "-m", "pipeline.reporting.track")
            assert "there are no results of vae, seed 0" in shown.stdout
            assert "2 runs written" in shown.stdout  # the two trainings, as far as they have got
        done = project.run(*stage, "--force", AELAB_CHECKPOINT="0.05")
        assert done.returncode == 0, done.stderr
        assert ("goes on from step" in done.stdout) is killed
        models = (project.folder / "models/vae" / f"seed{seed}.safetensors" for seed in (0, 1))
        bits.append([model.read_bytes() for model in models])
    assert bits[0] == bits[1]


def test_another_seed_is_trained_alone(project: Project) -> None:
    before = _contents(project.folder)
    params = project.params()
    project.write_params(params | {"seeds": [0, 1, 2]})
    done = project.run("dvc", "repro", "--single-item", "train@vae")
    project.write_params(params)
    assert sorted(re.findall(r"vae-seed(\d) was trained before", done.stdout)) == ["0", "1"]
    assert re.findall(r"vae-seed(\d) autoencoder: step 1,500/", done.stdout) == ["2"]
    for seed in (0, 1):
        for name in (f"models/vae/seed{seed}.safetensors", f"provenance/train/vae/seed{seed}.jsonl"):
            assert (project.folder / name).read_bytes() == before[name]


def test_one_after_the_other_from_scratch_gives_the_same_hashes(
    project: Project,
) -> None:
    project.repro()
    before = project.lock()
    project.repro("--force")
    after = project.lock()
    same = {
        path
        for path in after
        if not path.startswith(("provenance", "reports/comparison.", "reports/curves", "reports/figures"))
    }
    assert {path: after[path] for path in same} == {path: before[path] for path in same}
    assert len(same) > 15
