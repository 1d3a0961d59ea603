"""Floors are in every table and chart, and never ranked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Plot

from aelab.report import charts, floors, report_charts, summary, tables
from aelab.report.evidence import TRAINED, Entry, Evidence
from aelab.report.intervals import Interval

AE, DAE = Entry("ae", parameters={"inputs": "clean"}), Entry("dae", parameters={"inputs": "masked"})
FLOORS = [Entry(name, parameters={"inputs": "clean"}, floor=True) for name in ("pca", "identity", "mean")]
GRAY = {
    "binarisation_nats": 45.54, "png_nats": 1484.9, "png_bits_per_dim": 2.73, "webp_nats": 1112.0,
    "webp_bits_per_dim": 2.05,
}  # fmt: skip
BEST = {"mse": 0.001, "denoising_mse": 0.001, "denoising_masking-0.5": 0.001, "frechet": 0.1}


def evidence(*entries: Entry) -> Evidence:
    """Two trained entries, and floors that beat both by all metrics."""
    rows = [
        {"entry": entry.name, "seed": seed}
        | {name: value if entry.floor else (2 + i + seed / 100) * value for name, value in BEST.items()}
        for i, entry in enumerate(entries)
        for seed in range(1 if entry.floor else 3)
    ]
    return Evidence(entries, pd.DataFrame(rows))


FOUND = evidence(AE, DAE, *FLOORS)


def test_a_floor_is_in_no_group_of_trained_entries() -> None:
    assert not any(entry.floor for name in TRAINED for entry in FOUND.group(name))
    assert FOUND.group("floors") == FLOORS
    assert FOUND.group("plain autoencoders") == [AE]


def test_a_floor_with_seeds_of_its_own_would_be_no_leader_either() -> None:
    rows = pd.concat([FOUND.results, *(FOUND.results.assign(seed=FOUND.results["seed"] + 3 * i) for i in (1, 2))])
    found = Evidence(FOUND.entries, rows)
    assert found.leaders("mse") == {"ae"}
    assert [entry.name for entry in found.sound.entries] == ["ae", "dae"]
    (table,) = tables.tables("", "", found, ["mse"])
    assert [row[0] for row in table.rows] == ["ae", "dae", "pca", "identity", "mean"]
    assert ["**" in row[1] for row in table.rows] == [True, False, False, False, False]
    trained = Evidence([replace(entry, floor=False) for entry in FOUND.entries], rows)
    assert ["**" in row[1] for row in tables.tables("", "", trained, ["mse"])[0].rows] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_sentence_says_what_is_to_be_beaten_and_ranks_no_floor() -> None:
    said = summary.sentences(FOUND, "masking 0.5")
    assert all(each.text.startswith("`ae`") and not any(floor.name in each.text for floor in FLOORS) for each in said)
    assert "Floors without training: `pca` (0.00100), `identity` (0.00100) and `mean` (0.00100)." in said[0].more
    assert summary.sentences(evidence(*FLOORS), "masking 0.5") == []


def test_rows_of_floors_come_last_and_divide_no_table() -> None:
    """The identity defines one of two metrics that all other entries define; `mean` defines neither."""
    rows = FOUND.results.assign(psnr=FOUND.results["mse"])
    rows.loc[rows["entry"].isin(["identity", "mean"]), "psnr"] = np.nan
    rows.loc[rows["entry"] == "mean", "mse"] = np.nan
    (table,) = tables.tables("", "", Evidence([FLOORS[1], DAE, AE, FLOORS[2], FLOORS[0]], rows), ["psnr", "mse"])
    assert [row[0] for row in table.rows] == ["dae", "ae", "identity", "pca"]
    assert table.rows[2][1:] == ["–", "0.00100"]
    assert table.floors == ["identity", "pca"]


def test_floors_alone_have_their_table() -> None:
    (table,) = tables.tables("", "", evidence(*FLOORS), ["mse"])
    assert [row[0] for row in table.rows] == ["pca", "identity", "mean"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Plot]:
    kept = list[Plot]()
    monkeypatch.setattr(charts, "save", lambda figure, _: kept.append(figure))
    return kept


def labels(figure: Plot) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_in_a_chart_a_floor_is_a_named_line(tmp_path: Path, drawn: list[Plot]) -> None:
    list(report_charts.values(FOUND, tmp_path, {"metrics": {"frechet_floor": 0.15}, "floors": GRAY}))
    mse, frechet = drawn[0], drawn[-1]
    assert labels(mse)[2:] == ["pca 0.00100", "identity 0.00100", "mean 0.00100"]
    dashed = [line for line in mse.axes[0].lines if line.get_linestyle() == "--"]
    assert [np.asarray(line.get_xdata()).tolist() for line in dashed] == [[0.001, 0.001]] * 3
    assert [tick.get_text() for tick in mse.axes[0].get_yticklabels()] == ["ae", "dae"]
    assert "training images 0.15" in labels(frechet)


def test_nothing_is_less_than_0() -> None:
    found = evidence(AE, DAE, FLOORS[0])
    found.results.loc[found.results["entry"] == "pca", "mse"] = 0.0
    drawn: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "values", lambda *_, floors, **__: drawn.append(floors))
        list(report_charts.values(found, Path(), {"metrics": {}, "floors": {}}))
    assert drawn == [{}, {"pca": 0.001}, {"pca": 0.1}]
    reconstructs, restores = summary.sentences(found, "masking 0.5")
    assert "Floors without training" in restores.more
    assert "Floors without training" not in reconstructs.more


@pytest.mark.parametrize(("value", "label"), [(1.6, "a 1.60"), (99.0, "a 99.00 →"), (-99.0, "← a -99.00")])
def test_a_floor_that_lies_far_off_leaves_the_entries_their_room(
    value: float, label: str, tmp_path: Path, drawn: list[Plot]
) -> None:
    means = {"ae": Interval(1.0, 0.1), "dae": Interval(2.0, 0.1)}
    seeds = {name: [mean.mean] for name, mean in means.items()}
    charts.values(
        seeds, means, {"ae": 0, "dae": 1}, xlabel="", digits=2, path=tmp_path / "a.svg", floors={"a": value}
    )  # fmt: skip
    assert labels(drawn[0])[-1] == label
    left, right = drawn[0].axes[0].get_xlim()
    assert -1 < left < right < 4


def test_names_of_floors_do_not_overlap(tmp_path: Path, drawn: list[Plot]) -> None:
    means = {"ae": Interval(1.0, 0.1), "dae": Interval(2.0, 0.1)}
    near = {"pca": 1.5, "identity": 1.5, "training images": 1.51, "entropy of the binarisation": 1.45}
    charts.values(
        {name: [1.0] for name in means}, means, {"ae": 0, "dae": 1}, xlabel="", digits=2, path=tmp_path / "a.svg",
        floors=near,
    )  # fmt: skip
    drawn[0].canvas.draw()
    boxes = [text.get_window_extent() for text in drawn[0].axes[0].texts]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_the_noise_charts_have_floors_and_the_differences_none(tmp_path: Path, drawn: list[Plot]) -> None:
    list(report_charts.noise(FOUND, tmp_path))
    lines = {str(line.get_label()): line for line in drawn[0].axes[0].lines}
    assert list(lines) == ["ae", "dae", "pca", "identity", "mean"]
    assert [lines[each.name].get_marker() for each in FLOORS] == ["None"] * 3
    assert lines["pca"].get_linestyle() != lines["identity"].get_linestyle() != "-"
    before = len(drawn)
    list(report_charts.differences(FOUND, tmp_path))
    for figure in drawn[before:]:
        assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["dae"]


@pytest.mark.parametrize(
    ("measured", "pixels", "said"),
    [
        (GRAY, "Bernoulli, not binarised", "The entropy of the binarisation is 45.5 nats; no −ELBO is lower"),
        (GRAY, "8-bit, not binarised", "PNG 1,484.9 nats, 2.73 bits/dim; WebP 1,112.0 nats, 2.05 bits/dim."),
        (GRAY | {"binarisation_nats": 0.0}, "Bernoulli, static binarisation", "PNG 1,484.9 nats"),
        (GRAY | {"binarisation_nats": 0.0}, "Bernoulli, dynamic binarisation", "WebP 1,112.0 nats"),
    ],
)
def test_a_likelihood_has_the_floor_of_its_kind_of_pixels(measured: dict[str, float], pixels: str, said: str) -> None:
    note = floors.note(measured, pixels)
    assert said in note
    assert ("PNG" in note) is ("entropy" not in note)


@pytest.mark.parametrize(("measured", "pixels"), [(GRAY, "continuous, not binarised"), ({}, "8-bit, not binarised")])
def test_a_density_has_no_floor_and_older_results_have_none(measured: dict[str, float], pixels: str) -> None:
    assert floors.note(measured, pixels) == ""
    assert floors.of_data({"metrics": {}, "floors": measured}, "neg_elbo", pixels) == {}
