"""prose: check the text of the repository, which is pages, docstrings, comments, messages and captions.

    python -m pipeline.tools.prose [FILE…]

The package proselint finds clichés and needless words. `prose.toml` adds the project's own rules, and the maximum
length of a sentence for each kind of text. No exceptions are possible. After a false alarm, reword the sentence.
"""

import ast
import re
import sys
import tomllib
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated

import typer
from markdown_it import MarkdownIt
from proselint.checks import __register__ as CHECKS
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

from pipeline.common import git

RULES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
WORDS = [(re.compile(each["find"], re.MULTILINE), each["say"], each.get("where", "")) for each in RULES["words"]]
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”)]*\s+(?=[A-Z`\"“(§−])|\n\s*\n|\n\s*[-*] |\n\s*\w+: ")
FRAGMENT = 4  # maximum number of words of a string that is a name or a label, not a message
CODE = "`code`"  # replaces each piece of code in a text, and counts as one word
TEXT_SUFFIXES = {".md", ".py", ".toml", ".yaml", ".yml", ".j2"}
MARKDOWN = MarkdownIt().enable("table")

CheckRegistry().register_many(CHECKS)


@dataclass(frozen=True)
class Passage:
    """A piece of prose. Its `kind` is page, docstring, comment, message or caption."""

    path: Path
    line: int
    kind: str
    text: str


def main(
    files: Annotated[list[Path] | None, typer.Argument(help="the files to check; without any, all of them")] = None,
) -> None:
    """Check the prose of the repository, and print each passage that breaks a rule."""
    found = [
        f"{passage.path}:{passage.line}: {problem}"
        for path in files or tracked()
        for passage, problem in problems(list(passages(path)))
    ]
    print("\n".join([*found, f"{len(found)} findings"]))
    sys.exit(bool(found))


def tracked() -> Iterator[Path]:
    """Yield the files in git that can contain prose, except the files that `prose.toml` skips."""
    if not (listed := git.output("ls-files", "-z")):
        sys.exit("git lists no files here: run the command in a clone of the repository")
    for path in map(Path, listed.split("\0")[:-1]):
        if path.suffix in TEXT_SUFFIXES and path.exists() and not any(path.match(each) for each in RULES["skip"]):
            yield path


def passages(path: Path) -> Iterator[Passage]:
    """Yield each piece of prose in the file."""
    text = path.read_text(encoding="utf-8")
    readers = {".md": _markdown, ".py": _python, ".toml": _toml, ".j2": _template}
    for line, kind, words in readers.get(path.suffix, _comments)(text):
        if kind == "message" and path.parts[0] in {"tests", "faults"}:
            continue  # the strings of tests are data, not messages
        yield Passage(path, line, kind, re.sub(r"(?s)``.+?``|`[^`]+`", CODE, words))


def problems(passages: Sequence[Passage]) -> Iterator[tuple[Passage, str]]:
    """Yield each problem in the passages of a file, with its passage."""
    for passage in passages:
        yield from ((passage, problem) for problem in _own(passage.text, passage.kind))
    starts = list(accumulate((len(each.text) + 2 for each in passages), initial=0))
    whole = "\n\n".join(each.text for each in passages)
    found = LintFile("", whole).lint({"max_errors": 1000, "checks": RULES["proselint"]}) if whole else []
    for result in found:
        check = result.check_result
        start, end = (each - 1 for each in check.span)  # proselint adds a character before the text
        if "\n\n" not in (words := whole[start:end]):
            yield passages[bisect(starts, start) - 1], f"{words!r}: {check.message} ({check.check_path})"


def _own(text: str, kind: str) -> Iterator[str]:
    for pattern, say, where in WORDS:
        if re.search(where, kind):
            for match in pattern.finditer(text):
                yield f"{' '.join(match[0].split())!r}: {say}"
    longest = RULES["longest"][kind]
    for sentence in SENTENCE_END.split(text):
        if (length := len(re.findall(r"[`\w][\w’'`.,/^×·-]*", sentence))) > longest:
            yield f"{length} words in a sentence, {longest} allowed: {' '.join(sentence.split())[:60]}…"


Found = Iterable[tuple[int, str, str]]  # line number, kind and text of each passage


def _markdown(text: str) -> Found:
    for token in MARKDOWN.parse(text.split("\n---\n", 1)[-1] if text.startswith("---\n") else text):
        if token.type == "inline" and token.map:
            parts = (CODE if each.type == "code_inline" else each.content or "\n" for each in token.children or [])
            yield token.map[0] + 1, "page", "".join(parts)


def _python(text: str) -> Found:
    yield from _comments(text)
    nodes: list[ast.AST] = [ast.parse(text)]
    while nodes:
        node = nodes.pop()
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (docstring := ast.get_docstring(node)):
            yield node.body[0].lineno, "docstring", _without_code(docstring)
            children.remove(node.body[0])
        words = _words(node)
        if len(words.split()) > FRAGMENT and words[0].isprintable():
            yield getattr(node, "lineno", 1), "message", words
        nodes += [] if isinstance(node, ast.JoinedStr) else children


def _words(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(each) if isinstance(each, ast.Constant) else CODE for each in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _without_code(docstring: str) -> str:
    """Return the docstring without its indented blocks, which are equations and commands."""
    return re.sub(r"(?m)(?:^|(?<=\n))\n(?: {4}\S.*\n?)+(?=\n|\Z)", "\n", docstring)


def _comments(text: str) -> Found:
    """Yield the comments of a file. Consecutive lines with only a comment are one comment."""
    block: list[str] = []
    first = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        comment, alone = _comment(line), line.lstrip().startswith("#")
        if block and not (comment and alone):
            yield first, "comment", "\n".join(block)
            block = []
        if comment and alone:
            first = first if block else number
            block.append(comment)
        elif comment:
            yield number, "comment", comment


def _comment(line: str) -> str | None:
    found = re.search(r"(?:^|\s)#(?!!)\s?(?!noqa|type:)(\S.*)", line)
    return re.sub(r"\s*# (noqa|type: ignore).*", "", found[1]) if found else None


def _toml(text: str) -> Found:
    yield from _comments(text)
    yield from _values(tomllib.loads(text))


def _values(value: object) -> Found:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _values(each)
    elif isinstance(value, str) and len(value.split()) > FRAGMENT:
        yield 1, "caption", value


def _template(text: str) -> Found:
    words = re.sub(r"(?s)\{#.*?#\}|<(style|script).*?</\1>|\{%.*?%\}|<[^>]*>", "\n\n", text)
    yield 1, "caption", re.sub(r"(?s)\{\{.*?\}\}", CODE, words)


if __name__ == "__main__":
    typer.run(main)
