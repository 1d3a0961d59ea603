"""The real DAG from start to end on the digits, in a copy of the repository: its results and their readers."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.browser import DESK, PHONE, Theme, opened, overflow
from tests.support.processes import started, wait_for
from tests.support.project import SIDE_BY_SIDE, Project
from tests.support.runs import runs_at
from tests.support.servers import free_port
from tests.system.conftest import FLOOR


def seeds_of(project: Project) -> list[tuple[str, int]]:
    """Return every entry with its seeds; a floor has one seed."""
    return [(name, seed) for name in project.params()["variants"] for seed in (0, 1) if not (name == FLOOR and seed)]


def test_every_stage_ran_once(finished: Project) -> None:
    entries, inputs = finished.params()["variants"], finished.params()["corruption"]["train"]
    by_entry = [f"{stage}@{name}" for name in entries for stage in ("train", "evaluate")]
    others = ["download", "noise", "sources", "classify", "report", *(f"corrupt@{name}" for name in inputs)]
    assert sorted((finished.folder.parent / "finished.done").read_text().splitlines()) == sorted([*others, *by_entry])


def test_reports_hold_every_variant_and_say_what_is_undefined(finished: Project) -> None:
    reports = finished.folder / "reports"
    rows: Any = pd.read_csv(reports / "comparison.csv", keep_default_na=False).set_index("entry")
    assert rows.index.tolist() == [name for name, _ in seeds_of(finished)]
    rows = rows[rows["seed"] == 0]
    columns = (
        "seed mse psnr ssim neg_elbo rate distortion bits_per_dim perplexity codes_used active_units denoising_mse"
    )
    assert set(columns.split()) <= set(rows.columns)
    assert rows.loc["dae", "neg_elbo"] == "n/a"
    assert rows.loc["vae", "perplexity"] == "n/a"
    assert float(rows.loc["vqvae", "perplexity"]) >= 1
    assert float(rows.loc["vae", "neg_elbo"]) > 0
    ratio = rows["validation_mse"].astype(float) / rows["train_mse"].astype(float)
    assert rows["generalisation"].astype(float).tolist() == pytest.approx(ratio.tolist())
    sampled = {"frechet_fitted": ["dae", "vae", "pca"], "frechet_uniform": ["vqvae"], "mig": []}
    for name, entries in sampled.items():
        assert rows.index[rows[name] != "n/a"].tolist() == entries
    page, text = ((reports / f"comparison.{kind}").read_text() for kind in ("html", "md"))
    for name in rows.index:
        assert f"## {name}" in text
        assert f'id="entry-{name}"' in page
    assert "the code is a point" in text
    for figure in (line.split("](")[1][:-1] for line in text.splitlines() if line.startswith("![")):
        assert (reports / figure).exists(), figure


def test_the_report_fits_its_reader_and_asks_for_nothing(finished: Project) -> None:
    """tests/system/test_report_page.py checks the accessibility of the committed report."""
    cases: list[tuple[int, Theme]] = [(PHONE, "dark"), (DESK, "light")]
    for width, theme in cases:
        with opened((finished.folder / "reports/comparison.html").as_uri(), width=width, theme=theme) as (page, wrong):
            assert overflow(page) == 0
            assert page.locator("svg.chart").count() > 10
        assert wrong == []


def test_every_number_can_be_traced(finished: Project) -> None:
    row = pd.read_csv(finished.folder / "reports" / "comparison.csv").iloc[0]
    done = finished.run("git", "rev-parse", "HEAD")
    assert row["commit"] == done.stdout.strip()
    assert row["uncommitted_changes"] == "params.yaml"
    assert row["data"] == finished.lock()["data/clean/train"]
    assert row["device"] in {"cpu", "cuda"}
    assert row["precision"] == "float32"
    assert row["mode"] == ("graph" if row["device"] == "cuda" else "eager")


def test_metrics_are_shown_by_dvc(finished: Project) -> None:
    rows = pd.read_csv(finished.folder / "reports/comparison.csv")
    for split, targets in (("validation", []), ("test", ["reports/metrics/test.json"])):
        shown = finished.run("dvc", "metrics", "show", "--json", *targets)
        (found,) = (each["data"] for each in json.loads(shown.stdout)[""]["data"].values())
        assert list(found) == ["dae", "vae", "vqvae"]
        assert list(found["vae"]) == ["mse", "denoising_mse", "neg_elbo"]
        assert list(found["dae"]) == ["mse", "denoising_mse"]
        column = {"validation": "validation_mse", "test": "mse"}[split]
        assert found["dae"]["mse"] == pytest.approx(rows[rows["entry"] == "dae"][column].mean())


def test_curves_can_be_followed_and_have_the_time_of_every_point(finished: Project) -> None:
    lines = (finished.folder / "provenance/train/vqvae/seed1.jsonl").read_text().splitlines()
    points = [json.loads(line) for line in lines]
    assert {point["phase"] for point in points} == {"autoencoder", "prior"}
    assert sum("validation_loss" in point for point in points) == 20
    assert sum("system/cpu_utilization_percentage" in point for point in points) == 20
    times = [point["time"] for point in points]
    assert times == sorted(times)


def test_an_entry_has_a_card(finished: Project) -> None:
    card = finished.run(sys.executable, "-m", "aelab.inference.cli", "card", "--model", "models/vae").stdout
    assert card.startswith("---\nlicense: mit\n")
    assert "type: neg_elbo" in card
    assert "type: perplexity" not in card
    assert "- perplexity: n/a, there is no codebook.\n" in card


def test_dvc_shows_the_curves_by_step(finished: Project) -> None:
    done = finished.run("dvc", "plots", "show", "--json")
    shown = json.loads(done.stdout)["data"]
    assert "reports/curves/training/vqvae-prior.csv" in shown
    (curve,) = shown["reports/curves/validation/vae-autoencoder.csv"]
    points = curve["content"]["data"]["values"]
    assert [int(point["step"]) for point in points] == list(range(3, 31, 3))
    assert [float(point["seconds"]) for point in points] == sorted(float(point["seconds"]) for point in points)


def test_a_fresh_clone_has_metrics_and_curves(copied: Project, tmp_path: Path) -> None:
    """As in git, without DVC's cache."""
    copied.git("add", "--all")
    copied.git("commit", "--quiet", "--message", "results")
    copied.git("clone", "--quiet", str(copied.folder), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    shown = clone.run("dvc", "metrics", "show", "--json", "--all-commits").stdout
    (metrics,) = [each["data"] for name, each in json.loads(shown).items() if name == "workspace"]
    assert metrics["reports/metrics/validation.json"]["data"]["vae"]["mse"] > 0
    diff = clone.run("dvc", "plots", "diff", "HEAD", "--json").stdout
    assert "reports/curves/training/vae-autoencoder.csv" in json.loads(diff)["data"]


def test_nothing_to_do_runs_nothing(shared_copy: Project) -> None:
    assert shared_copy.repro() == []
    done = shared_copy.run(*SIDE_BY_SIDE)
    assert done.stdout == "Data and pipelines are up to date.\n"


@pytest.mark.filterwarnings("ignore")  # warnings of MLflow
def test_runs_are_in_mlflow(finished: Project) -> None:
    expected = sorted(f"digits-{name}-seed{seed}" for name, seed in seeds_of(finished))
    found = runs_at(f"sqlite:///{finished.folder / 'mlflow.db'}")
    assert sorted(str(run.info.run_name) for run in found) == expected


def test_the_address_of_make_ui_opens_the_runs_and_leaves_the_machine_alone(shared_copy: Project) -> None:
    port = free_port()
    dry = shared_copy.run("make", "--no-print-directory", "--dry-run", "ui", f"PORT={port}").stdout
    _, *command = dry.splitlines()[-1].split()
    assert command == ["-m", "pipeline.reporting.ui", "--port", str(port)]
    options = {"cwd": shared_copy.folder, "env": shared_copy.environment(), "stderr": subprocess.DEVNULL}
    with started([sys.executable, *command], **options) as process:
        assert process.stdout
        address = process.stdout.readline().removeprefix("The runs: ").strip()
        server = address.partition("#")[0]
        wait_for(lambda: _answers(server) or process.poll() is not None)
        with opened(address, width=2400, local=True) as (page, wrong):
            for name in shared_copy.params()["variants"]:
                page.get_by_text(f"Group: digits-{name}", exact=True).first.wait_for()
            columns = [page.get_by_role("columnheader", name=name).first for name in ORDER]
            places = [box["x"] for column in columns if (box := column.bounding_box())]
            assert places == sorted(places)
            assert len(places) == len(ORDER)
    # MLflow looks up its current user itself; without users it does not know the request.
    assert [each for each in wrong if not each.endswith("/users/current")] == []


ORDER = ("test/mse", "test/denoising_mse", "test/neg_elbo")


def _answers(server: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{server}health", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def test_an_mlflow_that_is_away_is_a_warning(shared_copy: Project) -> None:
    done = shared_copy.run(
        sys.executable, "-m", "pipeline.reporting.track",
        MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )  # fmt: skip
    assert done.returncode == 0
    assert "warning: the runs could not be written to MLflow" in done.stdout
