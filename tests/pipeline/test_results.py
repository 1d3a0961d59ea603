"""Tests of the facts on an entry that the report derives from its seeds' results."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from aelab.evaluation import per_image
from aelab.report.evidence import Entry
from pipeline.common import params
from pipeline.reporting.results import ReportEntry
from tests.support.parameters import DEFAULT


@dataclass
class Seed:
    """The fields of a result that describe an entry."""

    status: str = "finished"
    symptoms: list[str] = field(default_factory=list)
    entry: str = "vqvae"
    pixels: str = "Bernoulli"
    floor: bool = False
    curve: list[dict[str, Any]] = field(default_factory=list)
    code: dict[str, int] | None = None
    training_images: int | None = None
    folder: Path = Path("nowhere/seed0")
    parameters: dict[str, Any] = field(default_factory=dict)


def entry_of(*seeds: Seed) -> Entry:
    return ReportEntry("vqvae", params.check(DEFAULT, variants=False), cast("Any", seeds)).entry()


def test_a_symptom_of_any_seed_is_one_of_the_entry() -> None:
    collapsed = Seed(symptoms=["the codebook has collapsed"])
    assert entry_of(Seed(), collapsed, Seed("diverged")).symptoms == ["the codebook has collapsed"]
    assert not entry_of(Seed()).symptoms


@pytest.mark.parametrize(
    ("code", "size", "bits"),
    [
        ({"numbers": 32}, "32 numbers", None),
        ({"numbers": 784}, "784 numbers", None),
        ({"codes": 49, "of": 512}, "49 codes of 512: 441 bits", 441.0),
        ({"codes": 1024, "of": 200}, "1,024 codes of 200: 7,827 bits", 1024 * np.log2(200)),
        (None, "", None),
    ],
)
def test_the_size_of_a_code_is_said_in_words(code: dict[str, int] | None, size: str, bits: float | None) -> None:
    entry = entry_of(Seed(code=code))
    assert entry.code_size == size
    assert entry.code_bits == pytest.approx(bits)


def test_looks_are_those_of_the_first_phase() -> None:
    curve = [
        {"phase": phase, "step": step} for phase, step in (("autoencoder", 10), ("autoencoder", 90), ("prior", 900))
    ]
    known = Seed(curve=curve, training_images=400, parameters={"training": {"batch_size": 20}})
    assert entry_of(known).looks == 90 * 20 / 400
    assert np.isnan(entry_of(Seed("diverged", curve=curve)).looks)


def test_what_was_kept_of_each_image_is_read_and_an_older_result_has_none(tmp_path: Path) -> None:
    per_image.write(tmp_path / per_image.FILE, {0: {"mse": np.arange(4, dtype=np.float32)}}, 4)
    assert entry_of(Seed(folder=tmp_path / "seed0")).images["mse"].to_numpy().tolist() == [[0, 1, 2, 3]]
    assert not entry_of(Seed()).images
