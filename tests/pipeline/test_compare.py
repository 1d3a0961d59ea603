from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from pipeline.common import params
from pipeline.reporting.results import ReportEntry
from pipeline.tools.compare import paired


@dataclass
class Seed:
    fingerprint: str


def entries(**fingerprints: str) -> list[ReportEntry]:
    checked = cast("params.Params", None)
    return [ReportEntry(name, checked, cast("Sequence[Any]", [Seed(each)])) for name, each in fingerprints.items()]


def test_what_gave_the_same_is_there_once_and_what_differs_is_a_pair() -> None:
    before, after = entries(ae="1", vae="2", gone="3"), entries(new="9", vae="4", ae="1")
    found, pairs = paired(before, after, "HEAD~1", "beta4")
    assert [entry.name for entry in found] == ["new@beta4", "vae@HEAD~1", "vae@beta4", "ae", "gone@HEAD~1"]
    assert pairs == [("vae@HEAD~1", "vae@beta4")]
    assert [cast("Seed", entry.results[0]).fingerprint for entry in found] == ["9", "2", "4", "1", "3"]
