"""The documentation is correct: links lead somewhere, code runs, and all files and commands that it names exist."""

import ast
import contextlib
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser
from dvc.exceptions import DvcException
from dvc.utils import hydra
from hydra.errors import OverrideParseException
from pydantic import ValidationError
from ruamel.yaml import YAML

from aelab.core import disk
from aelab.core.errors import UserError
from aelab.report.metrics import OVERVIEW, metric
from pipeline.common import params
from pipeline.tools import recipe, reference
from tests.support import browser
from tests.support.markdown import FENCE, blocks
from tests.support.parameters import DEFAULT
from tests.support.project import REPOSITORY

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", ".github/*.md", "docs/*.md", "docs/*.ipynb", "recipes/results.md")
    for path in REPOSITORY.glob(pattern)
)
LANGUAGES = {"", "sh", "console", "python", "yaml", "{literalinclude}", "{toctree}", "{eval-rst}"}
TARGETS = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
MADE = "docs/_build/"  # by `make docs`
FOLDERS = "src|pipeline|docs|tests|recipes|benchmarks|faults"
RUN_ELSEWHERE = {
    "docs/notebook-library.ipynb": "tests/system/test_notebooks.py",
    "docs/notebook-run.ipynb": "tests/system/test_notebooks.py",
    "CONTRIBUTING.md": "tests/system/test_contributing.py",
}


def read(page: Path) -> str:
    """Return a page as Markdown, with the code cells of a notebook as blocks."""
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    cells = nbformat.read(page, as_version=4).cells
    python = "```python\n{}\n```"
    return "\n\n".join(each.source if each.cell_type == "markdown" else python.format(each.source) for each in cells)


def prose(text: str) -> str:
    return FENCE.sub("", text)


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", prose(read(path)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Each of these functions yields the problems of a page, and None for each correct item.


def links(text: str, page: Path) -> Iterator[str | None]:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(text))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists():
            yield f"{target} is not there"
        elif anchor and anchor not in anchors(path):
            yield f"{target}: no such heading"
        else:
            yield None


def names(text: str, page: Path) -> Iterator[str | None]:
    """Check files, commands and tests in backticks."""
    added = set(re.findall(r"[Ss]ave it as `([^`]+)`", text))
    known = {path.name for path in tracked()}
    for name in re.findall(r"`([^`\n]+)`", prose(text)):
        if "NAME" in name or "…" in name or "<" in name or name in added or name == MADE:
            continue
        if found := re.fullmatch(r"(tests/[\w/]+\.py)::(\w+)", name):
            yield None if found[2] in functions(REPOSITORY / found[1]) else f"there is no test {name}"
        elif re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*", name):
            yield None if (REPOSITORY / name).exists() else f"there is no {name}"
        elif re.fullmatch(r"[\w-]+\.(?:py|md|yaml|lock|toml)", name):
            yield None if name in known else f"there is no {name}"
        elif re.match(r"make |python -m ", name):
            yield command(name)
    assert page.suffix in {".md", ".ipynb"}


def commands(text: str, page: Path) -> Iterator[str | None]:
    """Check the commands in blocks of shell."""
    for block in blocks(text):
        if block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                yield from (command(each) for each in re.split(r"&&|;", line.split(" #")[0]) if each.strip())
    assert page.suffix in {".md", ".ipynb"}


def command(line: str) -> str | None:
    """Return the problem of a command line of this project; None if there is none."""
    words = [word for word in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[:1] == ["make"] and len(words) > 1 and words[1] not in TARGETS:
        return f"make has no target {words[1]}"
    if words[:2] == ["python", "-m"] and not module(words[2]):
        return f"there is no module {words[2]}"
    for program, parser in programs().items():
        known = program.split()
        if words[: len(known)] == known and len(words) > len(known) and not isinstance(parser, str):
            return not_understood(parser, words[len(known) :])
    return refused_by_dvc(words) if words[:1] == ["dvc"] else None


def refused_by_dvc(words: list[str]) -> str | None:
    """Return the problem that DVC, or the check of an experiment's parameters, has with a command."""
    try:
        told = get_main_parser().parse_args(words[1:])
    except (DvcParserError, SystemExit):
        return f"DVC does not know {' '.join(words)}"
    if words[1] not in {"exp", "experiments"} or words[2] != "run":
        return None
    if told.set_param and not (told.tmp_dir or told.queue):
        return f"{' '.join(words)} changes params.yaml, dvc.lock and reports/: take --temp or --queue"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        try:
            for each in hydra.get_hydra_sweeps({str(file): told.set_param or []}):
                shutil.copyfile(REPOSITORY / "params.yaml", file)
                hydra.apply_overrides(file, each[str(file)])
                params.load(file)
        except (UserError, DvcException, OverrideParseException) as error:
            return f"{' '.join(words)}: {error}"
    return None


@cache
def programs() -> dict[str, Any]:
    with contextlib.chdir(REPOSITORY):
        return reference.programs()


def not_understood(parser: Any, words: list[str]) -> str | None:
    """Return the problem that a program of this project has with its command line."""
    try:
        while words:  # a command may have subcommands
            context = parser.make_context(parser.name, list(words))
            below = getattr(parser, "commands", {})
            words = [*context._protected_args, *context.args] if below else []
            parser = below[words.pop(0)] if words else parser
    except Exception as error:  # noqa: BLE001 - any error of the parser
        return f"{' '.join(words)}: {error!r}"
    return None


def module(name: str) -> bool:
    place = REPOSITORY / ("src" if name.startswith("aelab") else ".") / name.replace(".", "/")
    return place.with_suffix(".py").exists() or (place / "__main__.py").exists()


PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
LARGEST = 200_000  # largest picture in bytes
WRITTEN = (REPOSITORY / "reports", REPOSITORY / "taste", REPOSITORY / "dvc_plots")  # written by runs of the pipeline


def pictures(text: str, page: Path) -> Iterator[str | None]:
    """Check pictures, which must not be files that a run replaces."""
    for target in PICTURE.findall(prose(text)):
        path = Path(os.path.normpath(page.parent / target))
        if any(path.is_relative_to(folder) for folder in WRITTEN):
            yield f"{target} is what a run writes: a page shows pictures of docs/published"
        elif "://" in target or not path.is_file():
            yield f"{target} is not there"
        else:
            yield None if path.stat().st_size <= LARGEST else f"{target} is larger than {LARGEST:,} bytes"


def functions(path: Path) -> set[str]:
    if not path.exists():
        return set()
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [Path(line) for line in done.stdout.splitlines()]


def quotations(text: str, page: Path) -> Iterator[str | None]:
    """Check that the lines of code that a page quotes exist."""
    for block in blocks(text):
        if block.language == "{literalinclude}":
            source = page.parent / block.argument
            lines = source.read_text(encoding="utf-8").splitlines() if source.exists() else []
            for line in re.findall(r"^:(?:start|end)-at: (.*)$", block.code, re.MULTILINE):
                yield None if any(line in each for each in lines) else f"{block.argument} has no line {line}"


def parameters(text: str, page: Path) -> Iterator[str | None]:
    """Check blocks of YAML, which are parts of params.yaml or a recipe."""
    for block in blocks(text):
        if block.language == "yaml" and page.name != "CONTRIBUTING.md":
            content = YAML(typ="safe", pure=True).load(block.code)
            try:
                if set(content) <= set(params.Params.model_fields):
                    params.check(recipe.merged(DEFAULT, content))
                else:
                    recipe.Recipe.model_validate(content)
            except (UserError, ValidationError) as error:
                yield str(error)
            else:
                yield None


def languages(text: str, page: Path) -> Iterator[str | None]:
    for block in blocks(text):
        yield None if block.language in LANGUAGES else f"nothing looks at a block of {block.language}"
    if any(block.language == "python" for block in blocks(text)):
        name = page.relative_to(REPOSITORY).as_posix() if page.is_relative_to(REPOSITORY) else page.name
        yield None if name in RUN_ELSEWHERE else run(text, page)


def run(text: str, page: Path) -> str | None:
    """Run a page's blocks of Python one after the other, and return the error of the first that fails."""
    known: dict[str, Any] = {}
    for block in blocks(text):
        if block.language == "python":
            try:
                exec(block.code, known)  # noqa: S102
            except Exception as error:  # noqa: BLE001
                return f"{page.name}: {error!r}"
    return None


CHECKS: list[Callable[[str, Path], Iterator[str | None]]] = [
    links, names, commands, pictures, quotations, parameters, languages,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_true(
    name: str, check: Callable[[str, Path], Iterator[str | None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = REPOSITORY / name
    assert [problem for problem in check(read(page), page) if problem] == []


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (links, "[there](nowhere.md)"),
        (links, "[there](README.md#no-such-heading)"),
        (names, "see `src/aelab/nothing.py`"),
        (names, "see `nothing.yaml`"),
        (names, "held by `tests/variants/test_vae.py::test_nothing`"),
        (names, "run `make nothing`"),
        (names, "run `python -m pipeline.nothing`"),
        (commands, "```sh\nMLFLOW_TRACKING_URI=x make nothing  # no target\n```\n"),
        (commands, "```sh\ngit pull && python -m pipeline.nothing\n```\n"),
        (commands, "```sh\ndvc exp run --temp -S variants.vae.betta=4\n```\n"),
        (commands, "```sh\ndvc exp run --temp \\\n  -S variants.vae.betta=4\n```\n"),
        (commands, "```sh\ndvc exp run --temp -S '+dataset.folders.photos={path: ~/Pictures}'\n```\n"),
        (commands, "```sh\ndvc exp run --temp -S '+dataset.folders.photos={path: images, sise: 64}'\n```\n"),
        (commands, "```sh\ndvc exp run --temp -S dataset.name=photos\n```\n"),
        (commands, "```sh\ndvc exp run --temp -S '~variants.nobody'\n```\n"),
        (commands, "```sh\ndvc repro --nothing\n```\n"),
        (commands, "```sh\ndvc nothing\n```\n"),
        (commands, "```sh\npython -m pipeline.runner.repro --nothing\n```\n"),
        (commands, "```sh\npython -m pipeline.runner.repro --jobs many\n```\n"),
        (commands, "```sh\ndvc exp run --queue -S variants.vae.beta=4,-1\n```\n"),
        (commands, "```sh\ndvc exp run -S variants.vae.beta=4\n```\n"),
        (commands, "```sh\ndvc exp run --name four --set-param variants.vae.beta=4\n```\n"),
        (commands, "```sh\ngit pull && dvc experiments run -S variants.vae.beta=4\n```\n"),
        (pictures, "![of a run](reports/figures/denoising.png)"),
        (pictures, "![of a run](docs/../reports/figures/noise-masking.svg)"),
        (pictures, "![of the taste](taste/reports/figures/denoising.png)"),
        (pictures, "![from elsewhere](https://example.org/denoising.png)"),
        (pictures, "![nothing](docs/published/nothing.png)"),
        (quotations, "```{literalinclude} src/aelab/variants/vae.py\n:start-at: return nothing\n```\n"),
        (quotations, "```{literalinclude} src/nothing.py\n:start-at: return nothing\n```\n"),
        (parameters, "```yaml\ntraining: {steps: 0}\n```\n"),
        (parameters, "```yaml\nvariants:\n  vae: {model: vae}\n```\n"),
        (parameters, "```yaml\ntitle: a recipe without the rest\n```\n"),
        (languages, "```perl\nprint 1\n```\n"),
        (languages, "```python\nx = 1\n```\n\n```python\ny = z\n```\n"),
    ],
)
def test_a_page_that_is_not_true_is_noticed(check: Callable[[str, Path], Iterator[str | None]], text: str) -> None:
    assert [problem for problem in check(text, REPOSITORY / "broken.md") if problem]


def test_all_this_looks_at_something() -> None:
    counts = {
        check.__name__: sum(1 for name in PAGES for _ in check(read(REPOSITORY / name), REPOSITORY / name))
        for check in CHECKS
    }
    print(counts)
    assert all(counts.values()), counts


def test_what_is_hand_written_is_about_as_long_as_the_table_says() -> None:
    rows = re.findall(
        r"^\| (`[^|]*) \|.*\| (\d+) lines[^|]*\|$", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 10
    for what, said in rows:
        if "`_" not in what:  # otherwise it is a function
            files = [REPOSITORY / name for name in re.findall(r"`([\w/]+\.py)`", what)]
            lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
            assert lines == pytest.approx(int(said), rel=0.2), what


def test_the_table_of_the_readme_is_that_of_its_pictures() -> None:
    """The table and the pictures come from the same run, and later runs do not change them."""
    published = REPOSITORY / "docs/published"
    means = pd.read_csv(published / "comparison.csv").groupby("entry", sort=False)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| entry |") :].partition("\n\n")[0].splitlines()
    table[0] = table[0].replace("| entry |", "|  |")
    assert table == (published / "glance.txt").read_text(encoding="utf-8").splitlines()[:-1]
    shown = [[re.sub(r"[*⚠,]| ±.*", "", cell).strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert [row[0] for row in shown] == list(means.groups)
    for entry, _, _, *cells in shown:
        for name, cell in zip(OVERVIEW, cells, strict=True):
            mean = means.get_group(entry)[name].mean()
            assert cell == ("–" if math.isnan(mean) else f"{mean:.{metric(name).digits}f}"), (entry, name)
    assert f"\nMNIST, {means.size().max()} seeds" in readme
    pages = [readme, (REPOSITORY / "docs/dvc-and-mlflow.md").read_text(encoding="utf-8")]
    pictured = {Path(target).name for page in pages for target in PICTURE.findall(page)}
    assert {path.name for path in published.iterdir()} == {"comparison.csv", "claims.json", "glance.txt"} | pictured


def test_the_verdicts_of_the_readme_are_those_of_its_run_and_of_the_recipes() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| claim |") :].partition("\n\n")[0].splitlines()
    for row in table[2:]:
        title, verdict, where = (cell.strip() for cell in row.strip("|").split("|"))
        name = where.strip("`")
        found = REPOSITORY / f"recipes/results/{name}.json"
        judged = disk.read_json(REPOSITORY / "docs/published/claims.json" if name == "make repro" else found)
        verdicts = {each["title"].rstrip("."): each["verdict"] for each in judged.get("claims", judged).values()}
        assert re.split("[:,]", verdict)[0] == verdicts[title], title


def test_the_figures_on_the_page_about_anomalies_are_the_recipes() -> None:
    page = (REPOSITORY / "docs/anomalies.md").read_text(encoding="utf-8")
    table = page[page.index("| score | AUROC") :].partition("\n\n")[0]
    measured = disk.read_json(REPOSITORY / "recipes/results/anomaly-digits.json")["figures"]
    known = {
        f"{each['mean']:.3f}" + (f" ± {each['interval']:.3f}" if each["interval"] else "")
        for each in measured
        if each["metric"].startswith("auroc") and each["mean"]
    }
    quoted = re.findall(r"0\.\d{3}(?: ± 0\.\d{3})?", table)
    assert len(quoted) == 7
    assert set(quoted) <= known


def test_every_page_is_on_the_site() -> None:
    index = (REPOSITORY / "docs/index.md").read_text(encoding="utf-8")
    pages = index + (REPOSITORY / "docs/library.md").read_text(encoding="utf-8")
    listed = {line for block in blocks(pages) if block.language == "{toctree}" for line in block.code.splitlines()}
    assert {Path(name).stem for name in PAGES if name.startswith("docs/")} - {"index"} <= listed


FETCHED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does; warnings are errors."""
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    strict = ["-W", "--keep-going", "-n", "-q"]
    command = [sys.executable, "-m", "sphinx", *strict, "-d", f"{folder}/.trees", str(REPOSITORY / "docs"), str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_shows_code_and_asks_for_nothing_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert FETCHED.findall(page.read_text()) == [], page
    assert "k = argmin_j" in (site / "theory.html").read_text()
    assert 'href="../_modules/' in (site / "_reference/aelab.models.base.html").read_text()
    assert '<img alt="Twenty digits that the model has drawn" ' in (site / "notebook-library.html").read_text()


THEMES_OWN = "landmark-unique"  # the theme has two sidebars without a name


@pytest.mark.parametrize("width", [browser.PHONE, browser.DESK])
def test_the_site_is_read_and_searched_from_files(site: Path, width: int) -> None:
    with browser.window(width) as page:
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith("file:") else None)
        for name in ("index", "theory", "parameters", "reference", "contributing"):
            page.goto((site / f"{name}.html").as_uri())
            assert browser.overflow(page) == 0, name
        page.goto((site / "search.html").as_uri() + "?q=reparameterisation")
        page.get_by_text("Search finished").wait_for()
        assert "Equations" in page.inner_text("#search-results")
        assert wrong == []
        for name in ("index", "theory", "parameters"):  # last, because axe then requests the style sheets, which fails
            page.goto((site / f"{name}.html").as_uri())
            assert [each for each in browser.violations(page) if not each.startswith(THEMES_OWN)] == [], name


def sentences() -> Iterator[str]:
    """Yield the messages that the troubleshooting page quotes, without DVC's or Python's own."""
    for line in (REPOSITORY / "docs/troubleshooting.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and ", from `dvc" not in line:
            yield from (each for each in re.findall(r"`([^`]+)`", line.split(" | ")[0]) if len(each.split()) > 3)


@pytest.fixture(scope="module")
def said() -> str:
    """Return all texts that the code can print, with … for inserted values."""
    texts = [(REPOSITORY / "Makefile").read_text(encoding="utf-8")]
    for path in (*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = ast.iter_child_nodes(node)
                texts.append("".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts).replace("`", "")


@pytest.mark.parametrize("sentence", list(sentences()))
def test_a_sentence_of_the_page_of_troubles_is_one_that_the_code_says(sentence: str, said: str) -> None:
    pieces = [each.strip(" :") for each in sentence.split("…")]
    assert max(map(len, pieces)) >= 10
    for each in pieces:
        assert each in said, each
