"""How Sphinx makes the site of docs/: `make docs`. Nothing is fetched, neither while it is built nor by its pages."""

import gc
import os
import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

gc.set_threshold(100_000)  # objects; looking for garbage after every 700 took a quarter of the time

DOCS = Path(__file__).parent
REPOSITORY = DOCS.parent

project = "aelab"
author = "the authors of aelab"
html_title = project
html_theme = "furo"
html_show_sphinx = html_show_copyright = False
html_show_search_summary = False  # a browser does not fetch text for a page from a file
html_copy_source = html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build", "jupyter_execute"]  # jupyter_execute holds the executed notebooks
extensions = [
    "myst_nb",  # Markdown, and notebooks, which are run
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # a page for each module of the library: docs/reference.md
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds for a cell
nb_ipywidgets_js: dict[str, str] = {}  # not fetched; sliders work where a kernel runs
# The notebook of a finished run needs one. An old run, whose models do not load, must not cost the site:
# the notebook itself says execution_allow_errors.
RUNS = (REPOSITORY, REPOSITORY / "taste")
nb_execution_excludepatterns = [] if any((run / "evaluation").exists() for run in RUNS) else ["notebook-run.ipynb"]
templates_path = ["_templates"]
shutil.rmtree(DOCS / "_reference", ignore_errors=True)  # the pages of modules that are there no more
copybutton_prompt_text = "$ "

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}
autodoc_mock_imports = ["mlflow"]  # seconds to import, and nothing of its own is shown
autodoc_typehints = "none"  # types are in the source, one click away, and in the docstrings as shapes
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
toc_object_entries = False
viewcode_line_numbers = True
# Types of other libraries lead nowhere without a network.
nitpick_ignore_regex = [("py:.*", r"(?!aelab\.).*|.*\.T")]  # T is a type variable, without a page

TEXT_OF = re.compile(r"^<!-- text of (\S+) -->$", re.MULTILINE)
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
SOURCE = re.compile(r"src/(aelab/.*?)(/__init__)?\.py")


def _read(_app: Sphinx, _name: str, content: list[str]) -> None:
    """Put the files that a page stands for in its place, and have links lead to the site's own pages."""
    text, base = content[0], DOCS
    homes = {_text_of(path.read_text(encoding="utf-8")): path.stem for path in DOCS.glob("*.md")}
    if file := _text_of(text):
        own = (REPOSITORY / file).read_text(encoding="utf-8")
        base = (REPOSITORY / file).parent
        text = text[text.index("```{toctree}") :] if "```{toctree}" in text else ""
        text = f"{_relinked(own, base, homes)}\n\n{text}"
    else:
        text = _relinked(text, base, homes)
    content[0] = text


def _text_of(text: str) -> str | None:
    found = TEXT_OF.search(text)
    return found[1] if found else None


def _relinked(text: str, base: Path, homes: dict[str | None, str]) -> str:
    """Links relative to docs/; to a page of the site where the file has one, to the reference where it is code."""

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        if "://" in target:
            return found[0]
        path = Path(os.path.normpath(base / target))
        inside = path.relative_to(REPOSITORY).as_posix()
        if inside in homes:
            return f"[{words}]({homes[inside]}.md{anchor})"
        if code := SOURCE.fullmatch(inside):
            return f"{{py:mod}}`{words} <{code[1].replace('/', '.')}>`"
        if path.is_dir():
            return words
        shown = path.with_suffix(".html") if path.with_suffix(".html").exists() else path
        return f"[{words}]({os.path.relpath(shown, DOCS)}{anchor})"

    return LINK.sub(link, text)


def _escaped(*event: Any) -> None:
    """Escape docstrings, which are plain text: equations are indented paragraphs, names have backticks, and stars and
    bars are no markup.
    """
    lines: list[str] = event[-1]
    done: list[str] = []
    inside = False
    for line in lines:
        blank_before = not done or not done[-1].strip()
        if inside and line.strip() and not line.startswith("    "):
            inside = False
        if not inside and blank_before and line.startswith("    "):
            done += ["::", ""]
            inside = True
        done.append(line if inside else _plain(line))
    lines[:] = done


def _plain(line: str) -> str:
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(
        rf"\ `{part}`\ " if part.startswith("`") else re.sub(r"([*|\\])|_(?=\W|$)", r"\\\g<0>", part) for part in parts
    )


def _accessible(*event: Any) -> None:
    """Code and tables that are wider than the page can be scrolled by keys, and captions have a level."""
    context: dict[str, Any] = event[3]
    if "body" in context:
        context["body"] = re.sub(r'<(pre|div class="table-wrapper[^"]*")>', r'<\1 tabindex="0">', context["body"])
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    app.connect("html-page-context", _accessible, priority=900)  # after the theme
    app.connect("autodoc-process-docstring", _escaped, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
