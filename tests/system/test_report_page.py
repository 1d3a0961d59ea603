"""Accessibility and layout of the committed report."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.support.browser import DESK, PHONE, Theme, opened, overflow, violations

REPORT = Path("reports/comparison.html").resolve()
LARGEST = 3 * 2**20  # largest size in bytes
TALLEST = 12_000  # largest height in pixels on a desktop's width


def test_it_is_small_enough_to_be_sent() -> None:
    assert REPORT.stat().st_size < LARGEST


@pytest.mark.parametrize(("width", "theme"), [(320, "light"), (PHONE, "dark"), (DESK, "light"), (DESK, "dark")])
def test_everybody_can_read_it_and_it_asks_for_nothing(width: int, theme: Theme) -> None:
    with opened(REPORT.as_uri(), theme=theme, width=width) as (page, wrong):
        assert violations(page) == []
        assert overflow(page) == 0
        assert page.locator("svg.chart text").count() > 100
        assert page.locator("svg.chart").count() == page.locator("svg.chart[aria-label]").count()
    assert wrong == []


def height(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollHeight"))


def test_it_is_read_in_a_few_screens_what_is_folded_not_counted() -> None:
    with opened(REPORT.as_uri()) as (page, _):
        assert height(page) <= TALLEST
        page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        assert height(page) > TALLEST


def test_the_first_two_screens_say_who_is_best_at_what_against_which_floor_and_how_sure() -> None:
    with opened(REPORT.as_uri()) as (page, _):
        first = page.locator("main .summary, main table.glance, main table.glance tr.floor, .verdict >> visible=true")
        boxes = [first.nth(i).bounding_box() for i in range(first.count())]
        tops = [box["y"] + box["height"] for box in boxes if box]
        assert len([top for top in tops if top < 1600]) >= 6
        table = page.locator("table.glance")
        assert table.locator("thead th").all_inner_texts()[0].startswith("code")
        assert table.locator("td.best").count() > 3
        assert table.evaluate("(each) => each.offsetWidth <= each.parentElement.clientWidth")


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("kind", ["metric-", "entry-", "claim-", "undefined"])
def test_a_link_into_what_is_folded_unfolds_it(kind: str, scripts: bool) -> None:  # noqa: FBT001
    target = next(each for each in re.findall(r'id="([^"]+)"', REPORT.read_text("utf-8")) if each.startswith(kind))
    with opened(REPORT.as_uri(), scripts=scripts) as (page, _):
        inside = page.locator(f"details [id='{target}']")
        assert not inside.is_visible()
        page.goto(f"{REPORT.as_uri()}#{target}")
        inside.wait_for()


@pytest.mark.parametrize("kind", ["metric-", "entry-"])
def test_a_link_unfolds_its_target_again_and_where_the_browser_does_not(kind: str) -> None:
    with opened(REPORT.as_uri()) as (page, _):
        link = page.locator(f"table.glance a[href^='#{kind}']").first
        inside = page.locator(f"details [id='{(link.get_attribute('href') or '')[1:]}']")
        for _ in range(2):
            link.click()
            inside.wait_for()
            page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = false))")
            assert not inside.is_visible()
            page.evaluate("addEventListener('click', (event) => event.preventDefault(), true)")  # only the script acts


def test_what_is_folded_is_printed() -> None:
    """The browser announces that it prints; without scripts, the style sheet unfolds everything."""
    for scripts in (True, False):
        with opened(REPORT.as_uri(), scripts=scripts) as (page, _):
            printed = page.pdf(format="A4")
            assert len(re.findall(rb"/Type /Page\b", printed)) > 20


def test_it_is_complete_without_scripts() -> None:
    with opened(REPORT.as_uri(), scripts=False) as (page, _):
        still = page.inner_text("main")
    with opened(REPORT.as_uri()) as (page, _):
        assert page.inner_text("main").split() == [word for word in still.split() if word != "↕"]


def test_tables_sort_up_down_and_back() -> None:
    with opened(REPORT.as_uri()) as (page, _):
        table = page.locator("table.sortable").first
        names = table.locator("tbody th")
        original = names.all_inner_texts()
        button = table.locator("thead button").first

        def values() -> list[float]:
            return [float(re.split(r"\s", cell)[0].replace(",", ""))
                    for cell in table.locator("tbody tr td:nth-of-type(1)").all_inner_texts()]  # fmt: skip

        button.focus()
        page.keyboard.press("Enter")
        assert values() == sorted(values())
        assert names.all_inner_texts() != original
        page.keyboard.press("Enter")
        assert values() == sorted(values(), reverse=True)
        page.keyboard.press("Enter")
        assert names.all_inner_texts() == original


def test_every_link_on_it_leads_somewhere() -> None:
    html = REPORT.read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    inside = re.findall(r'href="#([^"]*)"', html)
    assert len(inside) > 50
    assert set(inside) <= set(ids)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_charts_can_be_told_from_their_paper(theme: Theme) -> None:
    """The contrast of text is at least 4.5 : 1, as for other text; axe does not check charts."""
    with opened(REPORT.as_uri(), theme=theme) as (page, _):
        worst = page.evaluate(CONTRAST)
    assert worst >= 4.5


CONTRAST = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number)
      .map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll("svg.chart text")].map((each) => {
    const ink = light(getComputedStyle(each).fill);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  }));
}"""


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        ("<img src='data:image/png;base64,iVBORw0KGgo='>", "image-alt"),
        ("<p style='color: #bbb; background: #ccc'>faint</p>", "color-contrast"),
        ("<button></button>", "button-name"),
    ],
)
def test_what_is_broken_is_found(broken: str, found: str, tmp_path: Path) -> None:
    page_of = tmp_path / "broken.html"
    head = REPORT.read_text(encoding="utf-8").partition("<body>")[0]
    page_of.write_text(f"{head}<body><main><h1>In short</h1>{broken}</main></body></html>", encoding="utf-8")
    with opened(page_of.as_uri()) as (page, _):
        assert [each.partition(":")[0] for each in violations(page)] == [found]


def test_requests_errors_and_overflow_are_noticed(tmp_path: Path) -> None:
    page_of = tmp_path / "broken.html"
    broken = "<img src='elsewhere.png' alt='x'><script>undefined.x</script><div style='width: 3000px'>x</div>"
    page_of.write_text(f"<!doctype html><title>x</title><main>{broken}</main>", encoding="utf-8")
    with opened(page_of.as_uri()) as (page, wrong):
        assert overflow(page) > 0
    assert any(each.startswith("asked for") for each in wrong)
    assert any(each.startswith("error:") for each in wrong)
