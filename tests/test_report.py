import math
from pathlib import Path
from typing import Any

import pandas as pd

from autoencoders import report
from autoencoders.report import Column

RESULTS = pd.DataFrame(
    {
        "variant": ["a", "a", "b", "b"],
        "seed": [0, 1, 0, 1],
        "mse": [1.0, 3.0, 4.0, 4.0],
        "neg_elbo": [100.0, 102.0, 90.0, 92.0],
        "perplexity": [math.nan, math.nan, 5.0, 7.0],
    }
)
COLUMNS = {
    "mse": Column("MSE", 1, "lower"),
    "neg_elbo": Column("−ELBO", 0, "lower", likelihood=True),
    "perplexity": Column("perplexity", 1),
}


def test_means_spreads_and_the_best_of_each_column() -> None:
    table = report.table("title", "note", RESULTS, COLUMNS, ["bernoulli", "bernoulli"])
    assert table.header == ["", "MSE ↓", "−ELBO ↓", "perplexity"]
    assert table.rows == [
        ["a", "**2.0 ± 1.4**", "101 ± 1", "n/a"],
        ["b", "4.0", "**91 ± 1**", "6.0 ± 1.4"],
    ]


def test_bounds_under_different_likelihoods_are_not_ranked() -> None:
    table = report.table("title", "note", RESULTS, COLUMNS, ["bernoulli", "logistic"])
    assert [row[2] for row in table.rows] == ["101 ± 1", "91 ± 1"]


def test_one_seed_has_no_spread() -> None:
    table = report.table("title", "note", RESULTS[RESULTS["seed"] == 0], COLUMNS, [])
    assert [row[1] for row in table.rows] == ["**1.0**", "4.0"]


def _context(**changes: Any) -> dict[str, Any]:
    empty = report.table("title", "note", RESULTS, COLUMNS, [])
    return {
        "title": "T",
        "summary": "S",
        "problems": [],
        "tables": [empty],
        "figures": [],
        "claims": [("Claim.", "Reading.")],
        "claims_table": empty,
        "sections": [],
        "undefined": [("no codebook", ["perplexity (a)"])],
        "provenance": [empty],
        "parameters": "seeds: [0]\n",
        "folder": Path("reports"),
    } | changes


def test_what_a_user_wrote_is_no_markup() -> None:
    html = report.render("comparison.html.j2", _context(title="<script>alert(1)</script>"))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_page_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    figure = report.Figure("F", tmp_path / "a.png", "caption")
    html = report.render("comparison.html.j2", _context(figures=[figure]))
    assert 'src="data:image/png;base64,cG5n"' in html
    assert "http" not in html


def test_markdown_tables_have_as_many_cells_as_columns() -> None:
    lines = report.render("comparison.md.j2", _context()).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == 3 * 4
    assert {line.count("|") for line in tables} == {5}
    assert "| b | 4.0 | **91 ± 1** | 6.0 ± 1.4 |" in tables
