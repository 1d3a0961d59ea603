"""The pages of the report: the parts that a template shows, and the templates filled."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from aelab.evaluation.palette import THEMED
from aelab.report.tables import Table

CAPTIONS = tomllib.loads(Path(__file__).with_name("captions.toml").read_text(encoding="utf-8"))

DIGITS = re.compile(r"(\.\d\d)\d+")  # of a place on a chart: a hundredth of a point cannot be seen


@dataclass(frozen=True)
class Figure:
    """A picture with what it shows."""

    title: str
    path: Path
    caption: str
    metric: str = ""  # that it shows

    @property
    def id(self) -> str:
        """Its name in an address, whichever charts stand before it."""
        kind = re.split(r"-|\d*$", self.path.stem)[0]
        return f"{kind}-{slug(self.title)}"

    @property
    def svg(self) -> Markup:
        """The chart as a part of a page: named for a screen reader, in the colours of the page."""
        text = self.path.read_text(encoding="utf-8")
        text = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style .*?</style>", "", text, flags=re.DOTALL)
        text = re.sub(r'<g id="[^"]*"', "<g", text)
        text = re.sub(r' (?:x|y|d)="[^"]*"', lambda place: DIGITS.sub(r"\1", place[0]), text)
        for colour, name in THEMED.items():
            text = text.replace(colour, f"var(--{name})")
        text = re.sub(r"(font: [^;]*?) 'DejaVu Sans'[^;\"]*", r"\1 var(--font)", text)
        width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2]
        opening = (
            f'<svg class="chart" role="img" aria-label="{escape(self.title)}" viewBox="0 0 {width} {height}" '
            f'style="max-width: {1.5 * float(width):.0f}px">'
        )
        return Markup(re.sub(r"<svg.*?>", lambda _: opening, text, count=1, flags=re.DOTALL).strip())  # noqa: S704 - ours


def render(name: str, context: Mapping[str, Any]) -> str:
    """The template `name` filled with `context`: no value becomes markup, in HTML or in Markdown."""
    environment = Environment(
        loader=PackageLoader("aelab.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        finalize=None if name.endswith(".html.j2") else _no_html,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["anchor"] = _anchor
    environment.filters["slug"] = slug
    environment.filters["grouped"] = _grouped
    environment.filters["verbatim"] = Markup
    environment.filters["coded"] = _coded if name.endswith(".html.j2") else str
    return environment.get_template(name).render(context)


def slug(text: str) -> str:
    """Words as a part of an address."""
    return "-".join(re.findall(r"[\w.]+", text)).lower()


def _grouped(tables: Sequence[Table]) -> list[list[Table]]:
    """Each table with those that go on with it."""
    groups = list[list[Table]]()
    for table in tables:
        if table.title or not groups:
            groups.append([])
        groups[-1].append(table)
    return groups


def _anchor(name: str) -> str:
    """The id of an entry's section, in which HTML allows no space."""
    return f"entry-{name.replace(' ', '-')}"


def _coded(text: str, entries: Sequence[str] = ()) -> Markup:
    """Markdown's `code` as HTML; the name of one of `entries` leads to it."""
    names = {str(escape(name)) for name in entries}

    def code(found: re.Match[str]) -> str:
        inner = f"<code>{found[1]}</code>"
        return f'<a href="#{_anchor(found[1])}">{inner}</a>' if found[1] in names else inner

    return Markup(re.sub("`(.*?)`", code, str(escape(text))))  # noqa: S704 - escaped


def _no_html(value: Any) -> Any:
    """Markdown hands HTML on as it is."""
    return value.replace("<", "&lt;") if isinstance(value, str) and not isinstance(value, Markup) else value
