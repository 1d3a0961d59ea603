import math
from dataclasses import replace
from typing import Any

import pytest

from aelab.core.errors import UserError
from aelab.report.champions import ALIAS, NAME, TASKS, Candidate, Champion, elect, rule
from aelab.report.metrics import METRICS


def candidate(
    entry: str, seed: int = 0, pixels: str | None = None, dataset: str = "mnist", **metrics: float
) -> Candidate:
    return Candidate(entry, metrics, pixels, f"{entry}-{seed}", dataset)


def champions(*candidates: Candidate) -> dict[str, Any]:
    return {champion.task: champion.candidate.fingerprint for champion in elect(candidates)}


def test_the_mean_over_seeds_picks_the_entry_and_validation_its_seed() -> None:
    """The best single seed belongs to an entry with a worse mean."""
    lucky = candidate("a", 0, mse=0.1), candidate("a", 1, mse=0.9)
    steady = candidate("b", 0, mse=0.3), candidate("b", 1, mse=0.2)
    assert champions(*lucky, *steady) == {"reconstruction": "b-1"}
    (found,) = elect([*lucky, *steady])
    assert found.value == 0.2
    assert found.mean == pytest.approx(0.25)


def test_an_entry_of_which_a_seed_diverged_is_never_one() -> None:
    assert champions(candidate("a", 0, mse=0.1), candidate("a", 1), candidate("b", mse=0.5)) == {
        "reconstruction": "b-0"
    }
    assert champions(candidate("a")) == {}


def test_a_collapsed_entry_is_one_only_where_all_have_collapsed() -> None:
    collapsed = replace(candidate("a", 1, neg_elbo=1.0), symptoms=["the codebook has collapsed"])
    sound = candidate("b", neg_elbo=9.0)
    assert champions(candidate("a", 0, neg_elbo=1.0), collapsed, sound) == {"generation": "b-0"}
    assert champions(candidate("a", 0, neg_elbo=2.0), collapsed) == {"generation": "a-1"}
    assert champions(replace(collapsed, symptoms=()), sound) == {"generation": "a-1"}


def test_likelihoods_of_another_kind_of_pixels_are_not_compared() -> None:
    first = candidate("a", pixels="Bernoulli", neg_elbo=100.0)
    other = candidate("b", pixels="8-bit", neg_elbo=-5.0)
    same = candidate("c", pixels="Bernoulli", neg_elbo=90.0)
    assert champions(candidate("ae", mse=1.0), first, other, same) == {
        "reconstruction": "ae-0",
        "generation": "c-0",
    }


def test_each_task_has_its_own() -> None:
    good = candidate("a", mse=0.1, denoising_mse=0.5)
    clean = candidate("b", mse=0.2, denoising_mse=0.1)
    assert champions(good, clean) == {"reconstruction": "a-0", "denoising": "b-0"}
    assert champions(good, candidate("tie", mse=0.1, denoising_mse=math.inf))["reconstruction"] == "a-0"


def test_data_sets_have_champions_of_their_own() -> None:
    """Errors on different data sets do not compete."""
    found = elect([candidate("ae", mse=0.2), candidate("ae", mse=0.1, dataset="digits"), candidate("vae", mse=0.3)])
    assert [(each.name, each.value) for each in found] == [
        ("mnist-reconstruction", 0.2),
        ("digits-reconstruction", 0.1),
    ]


def stands_for(dataset: str, task: str = "denoising") -> Champion:
    return Champion(task, 0.1, 0.1, candidate("ae", dataset=dataset))


@pytest.mark.parametrize(
    ("pattern", "dataset", "name"),
    [
        ("", "mnist", "mnist-denoising"),
        ("", "my holiday/photos: 2024", "my-holiday-photos-2024-denoising"),
        ("", "cell_images-2", "cell_images-2-denoising"),
        ("{task}", "mnist", "denoising"),
        ("team x.{task} of {dataset}", "digits", "team x.denoising of digits"),
        ("{dataset}-{dataset}-{task}", "digits", "digits-digits-denoising"),
    ],
)
def test_a_name_carries_the_data_set(pattern: str, dataset: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, pattern)
    assert stands_for(dataset).name == name


@pytest.mark.parametrize("pattern", ["{dataset}", "best", "{data}-{task}", "a/{task}", "a:{task}", "{task", "'{task}'"])
def test_what_makes_no_name_is_told(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, pattern)
    with pytest.raises(UserError, match=f"{NAME} is .* needs {{task}} and may have {{dataset}}"):
        _ = stands_for("mnist").name


@pytest.mark.parametrize("task", TASKS)
def test_the_rule_is_told(task: str) -> None:
    metric, told = METRICS[TASKS[task]], rule(stands_for("digits", task))
    assert metric.better == "lower"
    assert metric.title in told
    assert f"models:/digits-{task}@{ALIAS}" in told
    assert "split of digits" in told
    assert ("kind of pixels" in told) == metric.likelihood
