"""What the report knows of an entry follows from the results of its seeds."""

from types import SimpleNamespace
from typing import Any, cast

from pipeline.common import params
from pipeline.reporting.results import ReportEntry
from tests.support.parameters import DEFAULT


def seed(status: str, *symptoms: str) -> SimpleNamespace:
    return SimpleNamespace(
        entry="vqvae", status=status, pixels="Bernoulli", curve=[], symptoms=list(symptoms), floor=False
    )


def test_a_symptom_of_any_seed_is_one_of_the_entry() -> None:
    results = cast("Any", [seed("finished"), seed("finished", "the codebook has collapsed"), seed("diverged")])
    entry = ReportEntry("vqvae", params.check(DEFAULT, variants=False), results).entry()
    assert entry.symptoms == ["the codebook has collapsed"]
    assert not ReportEntry("vqvae", params.check(DEFAULT, variants=False), results[:1]).entry().symptoms
