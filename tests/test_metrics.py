from pathlib import Path

from autoencoders import metrics
from autoencoders.metrics import METRICS, metric

GROUPS = (
    "RECONSTRUCTION", "LIKELIHOOD", "CODES", "IDENTITY", "GEOMETRY", "REPRESENTATION", "SAMPLES", "CLASSIFIER", "COST",
    "HEADLINE", "DECIDING", "PROBABILISTIC", "CODEBOOK",
)  # fmt: skip
DOCUMENTATION = Path(__file__).parent.parent / "docs" / "metrics.md"


def test_every_metric_that_is_listed_is_defined() -> None:
    assert {name for group in GROUPS for name in getattr(metrics, group)} <= METRICS.keys()


def test_each_is_defined_in_words() -> None:
    assert all(each.title and each.definition for each in METRICS.values())
    assert len({each.title for each in METRICS.values()}) == len(METRICS)


def test_a_corruption_is_a_metric_too() -> None:
    found = metric("denoising_salt_and_pepper-0.2")
    assert found.title == "salt and pepper 0.2"
    assert found.better == "lower"


def test_the_documentation_is_up_to_date() -> None:
    """After a change: python -m autoencoders.metrics > docs/metrics.md"""
    assert DOCUMENTATION.read_text(encoding="utf-8") == metrics.page()
