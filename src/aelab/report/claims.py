"""Claims about autoencoders, and the tests of each claim, read from `claims.toml`."""

import tomllib
from pathlib import Path
from typing import Any

from aelab.report.verdicts import Claim, Duel, Test, Threshold, ToldApart


def _test(fields: dict[str, Any]) -> Test:
    """Return the test with these fields: a `Threshold` has a field `value`, and a `Duel` has a field `ours`."""
    kind: type[Any] = Threshold if "value" in fields else Duel if "ours" in fields else ToldApart
    test: Test = kind(**fields)
    return test


def _claim(key: str, row: dict[str, Any]) -> Claim:
    premise = {"premise": Threshold(**row["premise"])} if "premise" in row else {}
    return Claim(**row | {"key": key, "tests": [_test(fields) for fields in row["tests"]]} | premise)


TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
CLAIMS = tuple(_claim(key, row) for key, row in TABLE.items())
