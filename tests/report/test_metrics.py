import re
from pathlib import Path

from aelab.evaluation import metric_names
from aelab.report import metrics
from aelab.report.metrics import METRICS, metric
from tests.support.project import REPOSITORY

SHOWN = ("LIKELIHOOD", "CODES", "COST", "HEADLINE", "PLOTTED", "DECIDING")
NEEDED = (
    "RECONSTRUCTION", "PROBABILISTIC", "CODEBOOK", "IDENTITY", "GEOMETRY", "FACTORS", "REPRESENTATION", "SAMPLES",
    "CLASSIFIED", "FITTED", "UNIFORM", "CLASSIFIER", "ANOMALIES",
)  # fmt: skip
DOCUMENTATION = REPOSITORY / "docs" / "metrics.md"


def test_every_metric_that_is_listed_is_defined() -> None:
    assert {name for group in SHOWN for name in getattr(metrics, group)} <= METRICS.keys()
    assert {name for group in NEEDED for name in getattr(metric_names, group)} <= METRICS.keys()
    figures = {
        "samples",
        "kl_per_dimension",
        "code_usage",
        "traversal",
        "reconstructions",
        "denoising",
        "interpolation",
    }
    assert {name for names in metric_names.METRICS_OF.values() for name in names} - METRICS.keys() == figures


def test_each_is_defined_in_words() -> None:
    assert all(each.title and each.definition for each in METRICS.values())
    assert {each.better for each in METRICS.values()} == {"lower", "higher", None}
    assert len({each.title for each in METRICS.values()}) == len(METRICS)


def test_a_corruption_is_a_metric_too() -> None:
    found = metric("denoising_salt_and_pepper-0.2")
    assert found.title == "salt and pepper 0.2"
    assert found.better == "lower"


def test_the_documentation_is_up_to_date() -> None:
    """Update the page with `python -m aelab.report.metrics > docs/metrics.md`."""
    assert DOCUMENTATION.read_text(encoding="utf-8") == metrics.page()


def test_the_names_alone_import_nothing() -> None:
    """Trainings and evaluations must not rerun after a change of a title."""
    text = Path(metric_names.__file__).read_text(encoding="utf-8")
    assert not re.search("^(import|from) ", text, flags=re.MULTILINE)
