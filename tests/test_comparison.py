import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autoencoders import charts, comparison
from autoencoders.comparison import Figure, Gallery, Section, Strip
from autoencoders.evidence import Claim, Finding, Verdict
from autoencoders.intervals import Interval
from autoencoders.metrics import METRICS
from autoencoders.summary import Sentence

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


def shown(results: pd.DataFrame, names: Sequence[str] = NAMES, **settings: bool) -> list[comparison.Table]:
    return comparison.tables("title", "note", results, names, **settings)


def test_means_intervals_and_the_best_of_each_column() -> None:
    """t(0.975; 1 degree) = 12.706. By mse a is better seed by seed (−3 and −3.1), by neg_elbo b only in the mean."""
    table, _ = shown(RESULTS, say_pixels=False)
    assert table.header == ["", "MSE ↓", "−ELBO (nats) ↓"]
    assert table.rows == [
        ["a", "**2.00000 ± 12.70620**", "**101.00 ± 12.71**"],
        ["b", "5.05000 ± 13.34151", "**92.50 ± 31.77**"],
    ]


def test_no_cell_is_empty_metrics_that_few_entries_define_have_a_table_of_their_own() -> None:
    first, second = shown(RESULTS, say_pixels=False)
    assert (first.title, first.note) == ("title", "note")
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


def test_one_seed_has_no_interval_and_nothing_is_best() -> None:
    table = shown(RESULTS[RESULTS["seed"] == 0])[0]
    assert [row[1] for row in table.rows] == ["1.00000", "4.00000"]


def test_what_nothing_defines_is_left_out() -> None:
    assert [table.rows for table in shown(RESULTS, ["perplexity", "ssim"])] == [[["b", "5.0"]]]
    assert shown(RESULTS, ["ssim", "psnr"]) == []
    assert shown(RESULTS[:0]) == []


def context(**changes: Any) -> dict[str, Any]:
    """What the templates show, next to nothing of it."""
    tables = shown(RESULTS, say_pixels=False)
    claim = Claim("key", "Claim.", "Reading.", [Finding(Verdict.SUPPORTED, "`a`: finding.")])
    lists = ("problems", "values", "gaps", "noise", "rates", "curves", "galleries", "sheets", "codes", "contrasts")
    nothing: dict[str, Any] = {name: [] for name in (*lists, "sections", "pictures")}
    return {
        **nothing,
        "title": "T",
        "lead": "L",
        "sentences": [Sentence("`a` is best.", "certain")],
        "reading": "R",
        "differences": None,
        "tables": tables,
        "claims": [{"claim": claim, "tables": tables, "figures": []}],
        "undefined": [("no codebook", ["perplexity (a)"])],
        "metrics": {"mse": METRICS["mse"]},
        "provenance": tables[1],
        "fence": "```",
        "parameters": "seeds: [0]\n",
        "folder": Path("reports"),
        "own": {},
    } | changes


def pages(**changes: Any) -> tuple[str, str]:
    html, text = (comparison.render(f"comparison.{kind}.j2", context(**changes)) for kind in ("html", "md"))
    return html, text


def test_a_claim_stands_with_its_verdict_on_both_pages() -> None:
    html, text = pages()
    assert '<span class="verdict supported">supported</span>' in html
    assert "<code>a</code>: finding." in html
    assert "| Claim. | supported |" in text
    assert "- `a`: finding. *Supported.*\n" in text


def test_the_summary_says_how_certain_it_is() -> None:
    html, text = pages()
    assert "<code>a</code> is best." in html
    assert '<span class="verdict certain">certain</span>' in html
    assert "- `a` is best. *Certain.*\n" in text


EVIL = "<script>alert(1)</script>"


def test_what_is_said_of_a_claim_is_no_markup() -> None:
    claim = Claim("key", EVIL, EVIL, [Finding(None, EVIL), Finding(Verdict.MIXED, EVIL)])
    for page in pages(claims=[{"claim": claim, "tables": [], "figures": []}]):
        assert EVIL not in page
        assert page.count("&lt;script") >= 4


def test_what_a_user_wrote_is_no_markup() -> None:
    section = Section(EVIL, EVIL, origin={"data": EVIL}, parameters=f"# {EVIL}")
    html, text = pages(title=EVIL, problems=[EVIL], sections=[section], parameters=f"# {EVIL}")
    assert EVIL not in html
    assert html.count("&lt;script&gt;") >= 6
    assert EVIL not in text.split("```")[0]


def test_page_needs_no_network() -> None:
    strip = Strip("a", "an image", np.zeros((1, 2, 1, 8, 8), np.uint8))
    html, _ = pages(galleries=[Gallery("G", "caption", [strip])])
    assert 'src="data:image/png;base64,' in html
    assert "http" not in html


def test_markdown_tables_have_as_many_cells_as_columns() -> None:
    text = pages()[1]
    header = None
    for line in text.splitlines():
        header = (header or line.count("|")) if line.startswith("|") else None
        assert header is None or line.count("|") == header, line
    assert "| b | 5.05000 ± 13.34151 | **92.50 ± 31.77** |" in text


def test_validation_stands_under_the_metrics_name() -> None:
    results = RESULTS.rename(columns={"mse": "validation_mse"})
    (table,) = shown(results, ["validation_mse"])
    assert table.header == ["", "MSE ↓"]


def test_images_stand_in_rows_with_gaps_between() -> None:
    images = np.zeros((2, 3, 1, 14, 14), np.uint8)
    sheet = Strip("a", "", images).sheet
    assert (sheet.height, sheet.width) == (2 * 15 - 1, 3 * 15 - 1)
    assert sheet.mode == "L"
    assert Strip("a", "", np.zeros((1, 1, 3, 64, 64), np.uint8)).sheet.mode == "RGB"
    assert Strip("a", "", images).pixelated
    assert Strip("a", "", np.zeros((1, 1, 3, 64, 64), np.uint8)).data_uri.startswith("data:image/webp;base64,")


def test_a_chart_takes_the_colours_of_the_page_and_a_name(tmp_path: Path) -> None:
    path = tmp_path / "chart.svg"
    drawn = {"a": [(0.0, Interval(1.0, 0.1)), (0.5, Interval(2.0, 0.2))]}
    charts.lines(drawn, {"a": 0}, "level <1>", "MSE", path)
    svg = Figure('A "title" & more', path, "").svg
    assert svg.startswith('<svg class="chart" role="img" aria-label="A &#34;title&#34; &amp; more"')
    assert not re.search("|".join(charts.THEMED), svg)
    assert "var(--c0)" in svg
    assert "var(--ink)" in svg
    assert "level &lt;1&gt;</text>" in svg
    assert "<?xml" not in svg


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
