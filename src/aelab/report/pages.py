"""Pages of the report, rendered from templates."""

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

# Digits of a chart's coordinates that `Figure.svg` removes, less than a hundredth of a point.
DIGITS = re.compile(r"(\.\d\d)\d+")
# Parts of matplotlib's SVG without effect, which `Figure.svg` removes. The font is set in report.css.
IDLE = re.compile(r"(?<=\n)[ \t]+| transform=\"rotate\(-0 [^\"]*\"| font-family: [^;\"]*;|(?<= )xlink:(?=href)")


@dataclass(frozen=True)
class Figure:
    """Chart or picture with its title and caption.

    Attributes:
        title: title of the figure.
        path: file of the figure.
        caption: caption of the figure; may be empty.
        metric: name of the metric that the figure shows; empty if the figure shows no single metric.
    """

    title: str
    path: Path
    caption: str
    metric: str = ""

    @property
    def id(self) -> str:
        """Anchor of the figure in the page. Figures before it do not change the anchor."""
        kind = re.split(r"-|\d*$", self.path.stem)[0]
        return f"{kind}-{slug(self.title)}"

    @property
    def svg(self) -> Markup:
        """The chart as SVG for the page, with a name for screen readers and the colours of the page."""
        text = self.path.read_text(encoding="utf-8")
        text = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style .*?</style>", "", text, flags=re.DOTALL)
        text = IDLE.sub("", re.sub(r'<g id="[^"]*"', "<g", text))
        text = re.sub(r' (?:x|y|d)="[^"]*"', lambda place: DIGITS.sub(r"\1", place[0]), text)
        for colour, name in THEMED.items():
            text = text.replace(colour, f"var(--{name})")
        text = re.sub(r"(font: [^;]*?) 'DejaVu Sans'[^;\"]*", r"\1 var(--font)", text)
        width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2]
        opening = (
            f'<svg class="chart" role="img" aria-label="{escape(self.title)}" viewBox="0,0 {width} {height}" '
            f'style="max-width: {1.5 * float(width):.0f}px">'
        )
        return Markup(re.sub(r"<svg.*?>", lambda _: opening, text, count=1, flags=re.DOTALL).strip())  # noqa: S704 - our own SVG


def render(name: str, context: Mapping[str, Any]) -> str:
    """Return the template `name` filled with `context`. HTML in the values is escaped."""
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
    """Return the text as part of a URL: its words in lower case, joined by hyphens."""
    return "-".join(re.findall(r"[\w.]+", text)).lower()


def _grouped(tables: Sequence[Table]) -> list[list[Table]]:
    """Group each table with its continuations, which have no title."""
    groups = list[list[Table]]()
    for table in tables:
        if table.title or not groups:
            groups.append([])
        groups[-1].append(table)
    return groups


def _anchor(name: str) -> str:
    """Return the id of an entry's section. HTML allows no space in an id."""
    return f"entry-{name.replace(' ', '-')}"


def _coded(text: str, entries: Sequence[str] = ()) -> Markup:
    """Return a text with Markdown's `code` as HTML. Code that is the name of an entry links to the entry's section."""
    names = {str(escape(name)) for name in entries}

    def code(found: re.Match[str]) -> str:
        inner = f"<code>{found[1]}</code>"
        return f'<a href="#{_anchor(found[1])}">{inner}</a>' if found[1] in names else inner

    return Markup(re.sub("`(.*?)`", code, str(escape(text))))  # noqa: S704 - escaped


def _no_html(value: Any) -> Any:
    """Escape HTML tags in a text, because Markdown passes tags on to the page."""
    return value.replace("<", "&lt;") if isinstance(value, str) and not isinstance(value, Markup) else value
