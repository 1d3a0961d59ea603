import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from autoencoders import comparison
from autoencoders.evidence import Claim, Finding, Verdict

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


def shown(results: pd.DataFrame, names: Sequence[str] = NAMES, **settings: bool) -> comparison.Table:
    table = comparison.table("title", "note", results, names, **settings)
    assert table is not None
    return table


def test_means_intervals_and_the_best_of_each_column() -> None:
    """t(0.975; 1 degree) = 12.706. By mse a is better seed by seed (−3 and −3.1), by neg_elbo b only in the mean."""
    table = shown(RESULTS, say_pixels=False)
    assert table.header == ["", "MSE ↓", "−ELBO (nats) ↓", "perplexity"]
    assert table.rows == [
        ["a", "**2.00000 ± 12.70620**", "**101.00 ± 12.71**", "n/a"],
        ["b", "5.05000 ± 13.34151", "**92.50 ± 31.77**", "5.0"],
    ]


def test_likelihoods_of_different_pixels_share_no_column_and_no_rank() -> None:
    results = RESULTS.assign(pixels=["binary", "binary", "8-bit values", "8-bit values"])
    table = shown(results, ["neg_elbo", "rate"])
    assert table.header == ["", "−ELBO, binary (nats) ↓", "−ELBO, 8-bit values (nats) ↓"]
    assert table.rows == [["a", "101.00 ± 12.71", "n/a"], ["b", "n/a", "92.50 ± 31.77"]]


def test_one_seed_has_no_interval_and_nothing_is_best() -> None:
    table = shown(RESULTS[RESULTS["seed"] == 0])
    assert [row[1] for row in table.rows] == ["1.00000", "4.00000"]


def test_what_nothing_defines_is_left_out() -> None:
    assert shown(RESULTS, ["perplexity", "ssim"]).rows == [["b", "5.0"]]
    assert comparison.table("title", "note", RESULTS, ["ssim", "psnr"]) is None
    assert comparison.table("title", "note", RESULTS[:0], NAMES) is None


def _context(**changes: Any) -> dict[str, Any]:
    some = shown(RESULTS, say_pixels=False)
    claim = Claim("key", "Claim.", "Reading.", [Finding(Verdict.SUPPORTED, "`a`: finding.")])
    return {
        "title": "T",
        "summary": "S",
        "problems": [],
        "differences": None,
        "metrics": some,
        "tables": [some],
        "figures": [],
        "claims": [{"claim": claim, "table": some, "figures": []}],
        "sections": [],
        "undefined": [("no codebook", ["perplexity (a)"])],
        "provenance": [some],
        "fence": "```",
        "parameters": "seeds: [0]\n",
        "folder": Path("reports"),
    } | changes


def test_a_claim_stands_with_its_verdict_on_both_pages() -> None:
    html, text = (comparison.render(f"comparison.{kind}.j2", _context()) for kind in ("html", "md"))
    assert '<span class="verdict supported">supported</span>' in html
    assert "<code>a</code>: finding." in html
    assert "| Claim. | supported |" in text
    assert "- `a`: finding. *Supported.*\n" in text


@pytest.mark.parametrize("kind", ["html", "md"])
def test_what_is_said_of_a_claim_is_no_markup(kind: str) -> None:
    evil = "<script>alert(1)</script>"
    claim = Claim("key", evil, evil, [Finding(None, evil), Finding(Verdict.MIXED, evil)])
    page = comparison.render(f"comparison.{kind}.j2", _context(claims=[{"claim": claim, "table": None, "figures": []}]))
    assert evil not in page
    assert page.count("&lt;script") >= 4


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
    assert len(tables) == 4 * 4 + 3
    assert {line.count("|") for line in tables} == {5, 3}  # three columns and the name, or claim and verdict
    assert "| b | 5.05000 ± 13.34151 | **92.50 ± 31.77** | 5.0 |" in tables


def test_validation_stands_under_the_metrics_name() -> None:
    results = RESULTS.rename(columns={"mse": "validation_mse"})
    table = shown(results, ["validation_mse"])
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
