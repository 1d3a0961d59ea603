"""Numbers in docs/scale.md: measured values are in the benchmarks' results, and extrapolations follow from them."""

import json
import re

import pytest

from tests.support.project import REPOSITORY

PAGE = (REPOSITORY / "docs/scale.md").read_text(encoding="utf-8")
TABLES = json.loads((REPOSITORY / "benchmarks/results.json").read_text(encoding="utf-8"))["slopes"]["tables"]
MS = {(row[0], row[1]): row[2] for table in TABLES for row in table["rows"] if len(row) == 4}
MEASURED = {f"{row[-2] if len(row) == 4 else row[1]:,.1f}" for table in TABLES[:3] for row in table["rows"]} | {"1.39"}


def test_what_is_measured_stands_in_the_results() -> None:
    shown = re.findall(r"^\| [^|]+\| ([\d,.]+) ms \|", PAGE, re.MULTILINE)
    assert len(shown) >= 8
    assert set(shown) <= MEASURED
    assert f"{TABLES[3]['rows'][1][1]:.2f}" == "1.39"


@pytest.mark.parametrize(
    ("what", "size", "factor", "shown"),
    [
        ("ours: a run by its fingerprint", 10_000, 100**0.19 / 1, "24 ms"),
        ("page: a metric's history", 10_000, 100**0.92 / 1000, "8 s"),
        ("page: 100 runs by a metric", 10_000, 100 / 60_000, "10 min"),
        ("page: 100 runs by a metric", 10_000, 100**1.38 / 60_000, "59 min"),
        ("check, before every stage", 512, 458 * 2 / 60_000, "5.8 min"),
        ("DVC's md5", 512, 458 * 2 / 60_000, "12.8 min"),
        ("check, before every stage", 512, 458 * 2 / 3600, "97 core hours"),
        ("dvc.lock updated by DVC, once a stage", 100, 5 / 1000, "53 s"),
        ("dvc.lock updated by DVC, once a stage", 100, 5 / 2 / 3600, "7.4 hours"),
        ("dvc.lock updated by DVC, once a stage", 100, 20 / 60_000, "3.5"),
    ],
)
def test_what_is_extrapolated_follows(what: str, size: float, factor: float, shown: str) -> None:
    number, _, _ = shown.partition(" ")
    digits = len(number.partition(".")[2])
    assert f"{MS[what, size] * factor:.{digits}f}" == number
    assert shown in PAGE
