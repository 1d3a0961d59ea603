import math
from pathlib import Path
from typing import Any

import pandas as pd

from autoencoders import comparison

RESULTS = pd.DataFrame(
    {
        "entry": ["a", "a", "b", "b"],
        "seed": [0, 1, 0, 1],
        "mse": [1.0, 3.0, 4.0, 4.0],
        "neg_elbo": [100.0, 102.0, 90.0, 92.0],
        "perplexity": [math.nan, math.nan, 5.0, 7.0],
    }
)
NAMES = ("mse", "neg_elbo", "perplexity")


def test_means_spreads_and_the_best_of_each_column() -> None:
    table = comparison.table("title", "note", RESULTS, NAMES, ["binary", "binary"])
    assert table.header == ["", "MSE ↓", "−ELBO (nats) ↓", "perplexity"]
    assert table.rows == [
        ["a", "**2.00000 ± 1.41421**", "101.00 ± 1.41", "n/a"],
        ["b", "4.00000", "**91.00 ± 1.41**", "6.0 ± 1.4"],
    ]


def test_bounds_under_different_likelihoods_are_not_ranked() -> None:
    table = comparison.table("title", "note", RESULTS, NAMES, ["binary", "8-bit"])
    assert [row[2] for row in table.rows] == ["101.00 ± 1.41", "91.00 ± 1.41"]


def test_one_seed_has_no_spread() -> None:
    table = comparison.table("title", "note", RESULTS[RESULTS["seed"] == 0], NAMES, [])
    assert [row[1] for row in table.rows] == ["**1.00000**", "4.00000"]


def _context(**changes: Any) -> dict[str, Any]:
    empty = comparison.table("title", "note", RESULTS, NAMES, [])
    return {
        "title": "T",
        "summary": "S",
        "problems": [],
        "differences": None,
        "metrics": empty,
        "tables": [empty],
        "figures": [],
        "claims": [("Claim.", "Reading.")],
        "claims_table": empty,
        "sections": [],
        "undefined": [("no codebook", ["perplexity (a)"])],
        "provenance": [empty],
        "fence": "```",
        "parameters": "seeds: [0]\n",
        "folder": Path("reports"),
    } | changes


def test_what_a_user_wrote_is_no_markup() -> None:
    html = comparison.render("comparison.html.j2", _context(title="<script>alert(1)</script>"))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_page_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    figure = comparison.Figure("F", tmp_path / "a.png", "caption")
    html = comparison.render("comparison.html.j2", _context(figures=[figure]))
    assert 'src="data:image/png;base64,cG5n"' in html
    assert "http" not in html


def test_markdown_tables_have_as_many_cells_as_columns() -> None:
    lines = comparison.render("comparison.md.j2", _context()).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == 4 * 4
    assert {line.count("|") for line in tables} == {5}
    assert "| b | 4.00000 | **91.00 ± 1.41** | 6.0 ± 1.4 |" in tables


def test_validation_stands_under_the_metrics_name() -> None:
    results = RESULTS.rename(columns={"mse": "validation_mse"})
    table = comparison.table("title", "note", results, ["validation_mse"], [])
    assert table.header == ["", "MSE ↓"]


def test_what_differs_between_entries_of_one_model() -> None:
    sections = {
        "ae": {"model": "ae", "code": 8},
        "vae": {"model": "vae", "network": {"name": "patches", "width": 8}, "beta": 1.0, "code": 8},
        "vae-beta4": {"model": "vae", "network": {"name": "patches", "width": 8}, "beta": 4.0, "code": 8},
        "vae-mlp": {"model": "vae", "network": {"name": "mlp", "hidden": [9]}, "beta": 1.0, "code": 8},
    }
    table = comparison.differences(sections)
    assert table is not None
    assert table.header == ["", "model", "network.name", "network.width", "beta", "network.hidden"]
    assert table.rows == [
        ["ae", "ae", "–", "–", "–", "–"],
        ["vae", "vae", "patches", "8", "1.0", "–"],
        ["vae-beta4", "vae", "patches", "8", "4.0", "–"],
        ["vae-mlp", "vae", "mlp", "–", "1.0", "[9]"],
    ]
    assert comparison.differences({name: sections[name] for name in ("ae", "vae")}) is None
