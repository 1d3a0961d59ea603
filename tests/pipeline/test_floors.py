"""A floor has one seed and no training: the first seed represents all, and metrics that need more are absent."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from aelab.core import devices
from pipeline.common import memory, params, seeds
from pipeline.reporting import results, track
from tests.support.parameters import DEFAULT, with_value

FLOORS = {"pca", "identity"}


def test_a_floor_has_the_first_seed_alone() -> None:
    checked = params.check(with_value("seeds", [7, 3, 5]))
    assert {name for name in checked.variants if checked.seeds_of(name) == [7]} == FLOORS
    assert all(checked.seeds_of(name) == [7, 3, 5] for name in checked.variants.keys() - FLOORS)


@pytest.mark.parametrize(("entry", "ran"), [("pca", [0]), ("identity", [0]), ("ae", [0, 1, 2])])
def test_it_is_worked_on_once_and_in_this_process(entry: str, ran: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AELAB_CPUS", "1")
    for name in (devices.SHARED, devices.FREE):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    done = seeds.for_each_seed(lambda *given: given[2], params.check(DEFAULT), entry, timed=True)
    assert list(done) == list(done.values()) == ran


def test_it_fits_into_any_memory() -> None:
    memory.check(params.check(DEFAULT), FLOORS, torch.device("cpu"), room=1)


def result(entry: str, seed: int, **more: Any) -> Any:
    """Return the results of all seeds of a trained entry, or of the first seed of a floor."""
    if entry in FLOORS and seed:
        raise KeyError(seed)
    return SimpleNamespace(entry=entry, seed=seed, floor=entry in FLOORS, **more)


def test_results_lack_nothing_where_a_floor_has_one_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text("stages: {}\n")
    monkeypatch.setattr(results, "_read", lambda _, entry, seed: result(entry, seed))
    first: dict[str, object] = {"pca": {}, "ae": {}, "identity": {}, "vae": {}}
    entries = results.collect(params.check(with_value("variants", first), variants=False))
    assert [entry.name for entry in entries] == ["ae", "vae", "pca", "identity"]
    assert [len(entry.results) for entry in entries] == [3, 3, 1, 1]
    monkeypatch.setattr(results, "_read", lambda _, entry, __: result(entry, 1))
    assert len(results.available(params.check(DEFAULT, variants=False))[1]) == 3 * len(FLOORS)


def test_what_was_not_trained_has_no_seconds() -> None:
    assert results.costs(cast("Any", SimpleNamespace(cost={"phases": {}, "peak_memory_mib": 9}))) == {}


def test_no_champion_is_a_floor() -> None:
    """Otherwise the identity would win with the smallest error."""
    metrics = {"validation": {"mse": 1.0, "denoising_mse": 1.0}}
    better = {"validation": {"mse": 0.0, "denoising_mse": 0.5}}
    about: dict[str, Any] = {
        "pixels": None,
        "symptoms": [],
        "fingerprint": "",
        "parameters": {"dataset": {"name": "toy"}},
    }
    found = [result("identity", 0, metrics=better, **about), result("ae", 0, metrics=metrics, **about)]
    assert {champion.candidate.entry for champion in track._champions(found)} == {"ae"}
    found[0].floor = False
    assert {champion.candidate.entry for champion in track._champions(found)} == {"identity"}
