import math
from collections.abc import Sequence

import pandas as pd

from aelab.report import tables
from aelab.report.evidence import Entry, Evidence

RESULTS = pd.DataFrame(
    {
        "entry": ["a", "a", "b", "b"],
        "seed": [0, 1, 0, 1],
        "pixels": ["binary"] * 4,
        "mse": [1.0, 3.0, 4.0, 6.1],
        "neg_elbo": [100.0, 102.0, 90.0, 95.0],
        "perplexity": [math.nan, math.nan, 5.0, 5.0],
        "ssim": [math.nan] * 4,
    }
)
NAMES = ("mse", "neg_elbo", "perplexity", "ssim")


def shown(results: pd.DataFrame, names: Sequence[str] = NAMES, **settings: bool) -> list[tables.Table]:
    pixels = dict(zip(results["entry"], results["pixels"], strict=True))
    evidence = Evidence([Entry(entry, pixels=kind) for entry, kind in pixels.items()], results)
    return tables.tables("title", "note", evidence, names, **settings)


def test_means_intervals_and_the_best_of_each_column() -> None:
    """t(0.975; 1 degree) = 12.706. By MSE, a is better on each seed (−3 and −3.1); by −ELBO, b only in the mean."""
    table, _ = shown(RESULTS, say_pixels=False)
    assert table.header == ["", "MSE ↓", "−ELBO (nats) ↓"]
    assert table.rows == [
        ["a", "**2.00000 ± 12.70620**", "**101.00 ± 12.71**"],
        ["b", "5.05000 ± 13.34151", "**92.50 ± 31.77**"],
    ]


def test_no_cell_is_empty_metrics_that_few_entries_define_have_a_table_of_their_own() -> None:
    first, second = shown(RESULTS, say_pixels=False)
    assert (first.title, first.note) == ("title", "note ±: 95 % interval over seeds.")
    assert (second.title, second.note) == ("", "")
    assert (second.header, second.rows) == (["", "perplexity"], [["b", "5.0"]])
    assert (first.names, second.names) == (["mse", "neg_elbo"], ["perplexity"])


def test_likelihoods_of_different_pixels_share_no_column_and_no_rank() -> None:
    results = RESULTS.assign(pixels=["binary", "binary", "8-bit values", "8-bit values"])
    one, other = shown(results, ["neg_elbo", "rate"])
    assert one.header == ["", "−ELBO, binary (nats) ↓"]
    assert one.rows == [["a", "101.00 ± 12.71"]]
    assert other.header == ["", "−ELBO, 8-bit values (nats) ↓"]
    assert other.rows == [["b", "92.50 ± 31.77"]]


def test_a_table_says_what_its_intervals_cover() -> None:
    images = pd.DataFrame([[1.0, 1.0, 1.0], [2.0, 3.0, 4.0]], index=[0, 1])
    entries = [Entry(name, pixels="binary", images={"mse": images}) for name in "ab"]
    evidence = Evidence(entries, RESULTS.assign(ssim=[0.5, 0.6, 0.7, 0.9], train_seconds=[9.0, 8.0, 7.0, 6.0]))
    (table,) = tables.tables("", "", evidence, ["mse", "ssim", "psnr"])
    assert table.note == "±: 95 % interval over seeds and test images; for SSIM over seeds."
    (table,) = tables.tables("", "Of one seed.", evidence, ["train_seconds"])
    assert table.note == "Of one seed."
    assert table.rows == [
        ["a", "8.5"],
        ["b", "6.5"],
    ]  # costs have no interval, and none is best


def test_one_seed_has_no_interval_and_nothing_is_best() -> None:
    table = shown(RESULTS[RESULTS["seed"] == 0])[0]
    assert [row[1] for row in table.rows] == ["1.00000", "4.00000"]


def test_what_nothing_defines_is_left_out() -> None:
    assert [table.rows for table in shown(RESULTS, ["perplexity", "ssim"])] == [[["b", "5.0"]]]
    assert shown(RESULTS, ["ssim", "psnr"]) == []
    assert shown(RESULTS[:0]) == []


def test_validation_stands_under_the_metrics_name() -> None:
    results = RESULTS.rename(columns={"mse": "validation_mse"})
    (table,) = shown(results, ["validation_mse"])
    assert table.header == ["", "MSE ↓"]


def test_what_differs_between_entries_of_one_model() -> None:
    sections = {
        "ae": {"model": "ae", "code": 8},
        "vae": {"model": "vae", "network": {"name": "patches", "width": 8}, "beta": 1.0, "code": 8},
        "vae-beta4": {"model": "vae", "network": {"name": "patches", "width": 8}, "beta": 4.0, "code": 8},
        "vae-mlp": {"model": "vae", "network": {"name": "mlp", "hidden": [9]}, "beta": 1.0, "code": 8},
    }
    table = tables.differences(sections)
    assert table is not None
    assert table.header == ["", "model", "network.name", "network.width", "beta", "network.hidden"]
    assert table.rows == [
        ["ae", "ae", "–", "–", "–", "–"],
        ["vae", "vae", "patches", "8", "1.0", "–"],
        ["vae-beta4", "vae", "patches", "8", "4.0", "–"],
        ["vae-mlp", "vae", "mlp", "–", "1.0", "[9]"],
    ]
    assert tables.differences({name: sections[name] for name in ("ae", "vae")}) is None
