import json
from pathlib import Path

import pytest

from pipeline.runner.first_look import first_look

FINISHED = {"status": "finished", "metrics": {"test": {"mse": 0.004, "denoising_mse": 0.01, "neg_elbo": 101.5}}}
DIVERGED = {"status": "diverged at step 1", "metrics": {"test": {}}}


def evaluated(*seeds: object) -> None:
    Path("evaluation/vae").mkdir(parents=True)
    Path("evaluation/vae/metrics.json").write_text(json.dumps(dict(enumerate(seeds))))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_evaluation_shows_means_and_intervals_as_the_report_does() -> None:
    other = {"status": "finished", "metrics": {"test": {"mse": 0.006, "denoising_mse": 0.01, "neg_elbo": 103.5}}}
    evaluated(FINISHED, other)
    shown = "test: MSE 0.00500 ± 0.01271, denoising MSE 0.01000, −ELBO 102.50 ± 12.71 nats (seeds: 2)"
    assert first_look("evaluate@vae") == shown


def test_a_diverged_seed_does_not_count() -> None:
    evaluated(FINISHED, DIVERGED)
    assert first_look("evaluate@vae") == "test: MSE 0.00400, denoising MSE 0.01000, −ELBO 101.50 nats (1 of 2 seeds)"


def test_where_nothing_finished_nothing_is_shown() -> None:
    evaluated(DIVERGED)
    assert first_look("evaluate@vae") == "no seed has finished"


@pytest.mark.parametrize("stage", ["train@vae", "report", "evaluate@away"])
def test_other_stages_show_nothing(stage: str) -> None:
    evaluated(FINISHED)
    assert first_look(stage) is None
