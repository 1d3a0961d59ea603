import re
from pathlib import Path
from typing import Any

import numpy as np

from aelab.evaluation.palette import THEMED
from aelab.report import charts, pages
from aelab.report.galleries import Gallery, Strip
from aelab.report.intervals import Interval
from aelab.report.marks import Name
from aelab.report.metrics import METRICS
from aelab.report.pages import Figure
from aelab.report.summary import Sentence
from aelab.report.tables import Table, joined
from aelab.report.verdicts import Claim, Finding, Judgement, Verdict


def context(**changes: Any) -> dict[str, Any]:
    """Smallest context of the templates."""
    tables = [
        Table("title", "note", ["", "MSE ↓"], [["a", "2.0"], ["b", "**1.0**"]]),
        Table("", "", ["", "x"], [["b", "5.0"]]),
    ]
    claim = Claim("key", "Claim.", "Reading.", "Lacking", ())
    judgement = Judgement(claim, [Finding(lambda _: "`a`: finding.", verdict=Verdict.SUPPORTED)], Verdict.SUPPORTED)
    lists = (
        "problems",
        "values",
        "gaps",
        "noise",
        "rates",
        "curves",
        "galleries",
        "sheets",
        "codes",
        "contrasts",
        "maps",
    )
    nothing: dict[str, Any] = {name: [] for name in (*lists, "sections", "pictures")}
    return {
        **nothing,
        "title": "T",
        "maps_note": "",
        "names": {"a": Name("32 numbers", ["collapsed"], floor=False), "b": Name("", [], floor=False)},
        "falling": "",
        "overview": Table("At a glance", "", ["", "code", "MSE ↓"], [["a", "8", "1"], ["b", "8", "2"]], ["", "mse"]),
        "lead": "L",
        "sentences": [Sentence("`a` is best.", "told", "More.", "seeds")],
        "seeds": 2,
        "differences": None,
        "tables": tables,
        "claims": [{"claim": claim, "judgement": judgement, "tables": tables, "figures": []}],
        "undefined": [("no codebook", ["perplexity (a)"])],
        "metrics": {"mse": METRICS["mse"]},
        "fence": "```",
        "parameters": "seeds: [0]\n",
        "folder": Path("reports"),
        "own": {},
    } | changes


def rendered(**changes: Any) -> tuple[str, str]:
    html, text = (pages.render(f"comparison.{kind}.j2", context(**changes)) for kind in ("html", "md"))
    return html, text


def test_a_claim_stands_with_its_verdict_on_both_pages() -> None:
    html, text = rendered()
    assert '<span class="verdict supported">supported</span>' in html
    assert "<code>a</code>: finding." in html
    assert "| Claim. | supported |" in text
    assert "- `a`: finding. *Supported.*\n" in text


def test_the_summary_says_how_certain_it_is() -> None:
    html, text = rendered()
    assert "<code>a</code> is best." in html
    assert '<span class="verdict told">at 95 %, over seeds</span> More' in html
    assert "- `a` is best. *At 95 %, over seeds.* More.\n" in text


EVIL = "<script>alert(1)</script>"


def test_what_is_said_of_a_claim_is_no_markup() -> None:
    claim = Claim("key", EVIL, EVIL, EVIL, ())
    judgement = Judgement(
        claim, [Finding(lambda _: EVIL), Finding(lambda _: EVIL, verdict=Verdict.MIXED)], Verdict.MIXED
    )
    for page in rendered(claims=[{"claim": claim, "judgement": judgement, "tables": [], "figures": []}]):
        assert EVIL not in page
        assert page.count("&lt;script") >= 4


def test_what_a_user_wrote_is_no_markup() -> None:
    section = {
        "title": EVIL, "about": EVIL, "seeds": None, "links": {}, "origin": {"data": EVIL}, "parameters": f"# {EVIL}"
    }  # fmt: skip
    html, text = rendered(title=EVIL, problems=[EVIL], sections=[section], parameters=f"# {EVIL}")
    assert EVIL not in html
    assert html.count("&lt;script&gt;") >= 6
    assert EVIL not in text.split("```")[0]


def test_page_needs_no_network() -> None:
    strip = Strip("a", "an image", np.zeros((1, 2, 1, 8, 8), np.uint8))
    html, _ = rendered(galleries=[Gallery("G", "caption", [strip])])
    assert 'src="data:image/png;base64,' in html
    assert "http" not in html


def test_markdown_tables_have_as_many_cells_as_columns() -> None:
    text = rendered()[1]
    header = None
    for line in text.splitlines():
        header = (header or line.count("|")) if line.startswith("|") else None
        assert header is None or line.count("|") == header, line
    assert "| b | **1.0** |" in text


def test_what_is_wrong_with_an_entry_stands_beside_its_name_in_every_row() -> None:
    strip = Strip("a", "an image", np.zeros((1, 2, 1, 8, 8), np.uint8))
    html, text = rendered(galleries=[Gallery("G", "caption", [strip])], sheets=[Gallery("S", "caption", [strip])])
    rows = len(re.findall(r'<th scope="row">(?:<a [^>]*>)?a\b', html))
    assert rows == 4  # the overview, the tables, the tables of the claim, the gallery
    assert html.count('aria-label="a: collapsed">⚠') == rows + 1  # also beside the sheet
    assert html.count("⚠") == rows + 2  # also in the explanation of the sign
    assert text.count("| a ⚠ |") == 3
    assert "b ⚠" not in html + text
    assert "<small>32 numbers</small>" in html


def test_a_table_unfolds_with_those_that_go_on_with_it() -> None:
    html, _ = rendered()
    folded = html[html.index('id="tables"') :].partition("</details>")[0]
    assert folded.count("<table") == 2
    assert re.search(r"<summary.*title.*MSE ↓, x.*</summary>", folded)


def test_tables_are_joined_with_dashes_where_there_is_nothing() -> None:
    parts = [
        Table("t", "", ["", "MSE ↓", "probe"], [["a", "1", "5"], ["b", "**2**", "6"], ["pca", "3", "7"]],
              ["mse", "probe_accuracy"], ["pca"]),
        Table("", "", ["", "−ELBO"], [["b", "9"], ["c", "8"]], ["neg_elbo"]),
    ]  # fmt: skip
    table = joined(parts, ["mse", "neg_elbo", "frechet", "probe_accuracy"])
    assert table.header == ["", "MSE ↓", "−ELBO", "probe"]
    assert table.rows == [["a", "1", "–", "5"], ["b", "**2**", "9", "6"], ["pca", "3", "–", "7"], ["c", "–", "8", "–"]]
    assert (table.names, table.floors) == (["mse", "neg_elbo", "probe_accuracy"], ["pca"])


def test_a_chart_takes_the_colours_of_the_page_and_a_name(tmp_path: Path) -> None:
    path = tmp_path / "chart.svg"
    drawn = {"a": [(0.0, Interval(1.0, 0.1)), (0.5, Interval(2.0, 0.2))]}
    charts.lines(drawn, {"a": 0}, path, xlabel="level <1>", ylabel="MSE")
    svg = Figure('A "title" & more', path, "").svg
    assert svg.startswith('<svg class="chart" role="img" aria-label="A &#34;title&#34; &amp; more"')
    assert not re.search("|".join(THEMED), svg)
    assert "var(--c0)" in svg
    assert "var(--ink)" in svg
    assert "level &lt;1&gt;</text>" in svg
    assert "<?xml" not in svg


def test_every_heading_and_figure_leads_to_itself(tmp_path: Path) -> None:
    charts.bars(np.ones(3), ("x", "y"), 0, tmp_path / "values-3-mse.svg")
    html, _ = rendered(values=[Figure("MSE ↓, of (all) 5 %", tmp_path / "values-3-mse.svg", "", "mse")])
    for opening in re.findall(r"<(?:h[123]|figure)[^>]*>", html):
        (found,) = re.findall(r'id="([^"]+)"', opening)
        assert html.count(f'<a class="link" href="#{found}" aria-label="Link to ') == 1
    assert '<figure id="values-mse-of-all-5">' in html


def test_a_figures_address_does_not_depend_on_those_before_it() -> None:
    first, second = (Figure("MSE", Path(f"figures/values-{i}-mse.svg"), "") for i in (0, 7))
    assert first.id == second.id == "values-mse"
    assert Figure("MSE", Path("figures/differences-0-mse.svg"), "").id != first.id
