import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import pytest

from aelab.report.evidence import Entry, Evidence
from aelab.report.intervals import crossed
from pipeline.common import params
from pipeline.reporting.results import ReportEntry
from pipeline.tools.compare import ComparedEntry, markdown, numbers, side_by_side, title
from tests.support.parameters import DEFAULT, with_value

VAE = DEFAULT["variants"]["vae"]


@dataclass
class Seed:
    entry: str
    gave: str
    floor: bool = False


def entries(content: dict[str, Any] = DEFAULT, **gave: str) -> list[ReportEntry]:
    """Return the entries of these parameters, with results as one letter for each seed."""
    checked = params.check(content, variants=False)
    return [
        ReportEntry(name, checked, cast("Sequence[Any]", [Seed(name, seed) for seed in seeds]))
        for name, seeds in gave.items()
    ]


def vae(gave: str, **changes: Any) -> list[ReportEntry]:
    return entries(with_value("variants.vae", VAE | changes), vae=gave)


def names(shown: Sequence[ComparedEntry]) -> list[str]:
    return [each.entry.name for each in shown]


def test_two_revisions_are_called_by_what_differs_and_what_is_equal_is_there_once() -> None:
    other = entries(with_value("variants.vae", VAE | {"beta": 4}), vae="2", ae="1")
    shown, pairs = side_by_side({"HEAD~1": entries(ae="1", vae="3"), "silky-typo": other})
    assert names(shown) == ["ae", "vae beta=1", "vae beta=4"]
    assert [each.revisions for each in shown] == [["HEAD~1", "silky-typo"], ["HEAD~1"], ["silky-typo"]]
    assert [cast("Seed", each.entry.results[0]).gave for each in shown] == ["1", "3", "2"]
    assert pairs == [("vae beta=1", "vae beta=4")]
    assert title(shown, ["HEAD~1", "silky-typo"]) == "vae: beta = 1, 4"


def test_a_sweep_is_in_the_order_of_its_values_and_set_against_the_first_revision() -> None:
    shown, pairs = side_by_side({
        "HEAD": vae("a", beta=1.0),
        "b": vae("b", beta=10),
        "c": vae("c", beta=9),
        "d": vae("d", beta=0.5),
        "e": vae("a", beta=1),  # the same as HEAD
    })  # fmt: skip
    assert names(shown) == ["vae beta=0.5", "vae beta=1", "vae beta=9", "vae beta=10"]
    assert shown[1].revisions == ["HEAD", "e"]
    assert pairs == [("vae beta=1", f"vae beta={beta}") for beta in (10, 9, 0.5)]
    assert title(shown, list("HEAD")) == "vae: beta = 0.5, 1, 9, 10"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {"code": 8}, ["vae code=8", "vae code=32"]),
        ({}, {"likelihood": "logistic"}, ["vae likelihood=bernoulli", "vae likelihood=logistic"]),
        ({}, {"beta": 4, "code": 8}, ["vae code=8 beta=4", "vae code=32 beta=1"]),
        ({}, {"network": VAE["network"] | {"width": 8}}, ["vae width=8", "vae width=64"]),
        ({}, {"training": {"steps": 10}}, ["vae steps=10", "vae steps=2500"]),
        ({"training": {}}, {"training": {"steps": 10}}, ["vae steps=10", "vae steps=1400"]),
        ({}, {"training": {"steps": 2500, "points": 7}}, ["vae points=7", "vae points=100"]),
        (
            {},
            {"network": VAE["network"] | {"steps": 1}, "training": {"steps": 2}},
            ["vae training.steps=2500 network.steps=–", "vae training.steps=2 network.steps=1"],
        ),
        ({}, {"inputs": "masked"}, ["vae inputs=clean", "vae inputs=masked"]),
        ({}, {}, ["vae@HEAD", "vae@other"]),  # the code differs
        ({"note": "a/b"}, {"note": "c"}, ["vae note=a∕b", "vae note=c"]),  # the name is also a folder's
        ({}, {"note": "x" * 40}, ["vae note=–", "vae@other"]),
    ],
)
def test_a_name_has_every_parameter_that_differs_unless_it_gets_long(
    before: dict[str, Any], after: dict[str, Any], expected: list[str]
) -> None:
    shown, _ = side_by_side({"HEAD": vae("a", **before), "other": vae("b", **after)})
    assert sorted(names(shown)) == sorted(expected)
    assert not [name for name in names(shown) if "/" in name]


def test_a_parameter_of_all_entries_is_named_once_in_the_title_and_not_where_an_entry_has_its_own() -> None:
    short = entries(with_value("training.steps", 10), ae="b", dae="b", vae="b")
    shown, _ = side_by_side({"HEAD": entries(ae="a", dae="a", vae="a"), "short": short})
    assert names(shown) == [
        "ae steps=10", "ae steps=1400", "dae steps=10", "dae steps=1400",
        "vae@HEAD", "vae@short",
    ]  # fmt: skip
    assert title(shown, ["HEAD", "short"]) == "ae and dae: training.steps = 10, 1400"


def test_what_does_not_bear_on_an_entry_is_not_in_its_name() -> None:
    new = {"noise": {"masking": [1]}, "copies": 1}
    content = with_value("corruption.train", DEFAULT["corruption"]["train"] | {"new": new})
    content["dataset"]["folders"] = {"photos": {"path": "images"}}
    content["corruption"]["train"]["masked"] = {"noise": {"masking": [0.5]}, "copies": 3}
    shown, _ = side_by_side({"HEAD": entries(dae="a", vae="a"), "other": entries(content, dae="b", vae="b")})
    assert names(shown) == [
        "dae copies=2", "dae copies=3", "vae@HEAD", "vae@other",
    ]  # fmt: skip


def test_other_seeds_are_other_results() -> None:
    one = entries(with_value("seeds", [0]), vae="a")
    shown, _ = side_by_side({"HEAD": entries(vae="abc"), "one": one})
    assert names(shown) == ["vae seeds=[0, 1, 2]", "vae seeds=[0]"]


def test_the_same_parameters_under_other_code_are_told_apart_by_revision() -> None:
    shown, pairs = side_by_side({"a": vae("1", beta=1), "b": vae("2", beta=1), "c": vae("3", beta=4)})
    assert names(shown) == ["vae beta=1@a", "vae beta=1@b", "vae beta=4"]
    assert len(pairs) == 2


def test_an_entry_of_one_revision_alone_and_one_revision_alone_have_plain_names() -> None:
    shown, pairs = side_by_side({"HEAD": entries(ae="1"), "more": entries(ae="1", vae="2")})
    assert (names(shown), pairs) == (["ae", "vae"], [])
    assert title(shown, ["HEAD", "more"]) == "HEAD and more"
    shown, _ = side_by_side({"HEAD": entries(ae="1", vae="2")})
    assert names(shown) == ["ae", "vae"]
    assert title(shown, ["HEAD"]) == "HEAD"


def test_one_table_has_what_differs_and_the_headline_metrics() -> None:
    before, after = entries(ae="11", vae="12"), entries(with_value("variants.vae.beta", 4.0), ae="11", vae="34")
    shown, _ = side_by_side({"HEAD": before, "=b4": after})
    rows = pd.DataFrame([
        {"entry": entry, "seed": seed, "mse": mse, "validation_mse": 10 * mse, "validation_neg_elbo": bound}
        for entry, seed, mse, bound in [
            ("ae", 0, 0.1, None), ("ae", 1, 0.3, None), ("vae beta=1", 0, 0.5, 100.0),
            ("vae beta=4", 0, 0.5, 100.0), ("vae beta=4", 1, 0.5, 102.0),
        ]
    ])  # fmt: skip
    images = pd.DataFrame([[0.0, 0.2, 0.1], [0.4, 0.2, 0.3]])
    found = Evidence([Entry("ae", images={"mse": images}), Entry("vae beta=1"), Entry("vae beta=4")], rows)
    table = numbers(shown, found)
    assert table["mse ±"][0] == pytest.approx(crossed(images).half)  # also over images
    assert list(table["entry"]) == ["ae", "vae", "vae"]
    assert list(table["beta"].fillna("")) == ["", "1", "4"]
    assert list(table["revisions"]) == ["HEAD, =b4", "HEAD", "'=b4"]  # not a formula
    assert list(table["mse"]) == pytest.approx([0.2, 0.5, 0.5])
    assert table["validation_neg_elbo ±"][2] == pytest.approx(12.706, abs=0.001)
    assert "perplexity" not in table  # which no entry defines
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown(shown, found).splitlines()]
    assert lines[0] == ["entry", "beta", "MSE ↓", "−ELBO (nats) ↓", "revisions"]
    assert all(re.fullmatch("-+", cell) for cell in lines[1])
    assert lines[2][0::2] == ["ae", "2.00000 ± 12.70620", "all"]
    assert lines[2][3] == "n/a"
    assert lines[3] == ["vae", "1", "5.00000", "100.00", "HEAD"]
    assert lines[4] == ["vae", "4", "5.00000", "101.00 ± 12.71", "=b4"]
