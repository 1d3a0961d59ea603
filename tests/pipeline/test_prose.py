"""The linter of prose finds what its rules name, in every kind of text, and nothing in plain sentences."""

from pathlib import Path

import pytest

from pipeline.tools import prose

LONG = "The model " + "and the model " * 20 + "end."
TEXTS = {
    "a.md": ("# Page\n\n{}\n", "page"),
    "b.md": ("| a | b |\n|---|---|\n| c | {} |\n", "page"),
    "c.py": ('"""{}"""\n', "docstring"),
    "d.py": ("x = 1  # {}\n", "comment"),
    "e.py": ('def f(x):\n    raise ValueError(f"{{x}}: {}")\n', "message"),
    "f.yaml": ("# {}\nkey: 1\n", "comment"),
    "g.toml": ('key = "{}"\n', "caption"),
    "h.md.j2": ("{{% if x %}}<p>{}</p>{{% endif %}}\n", "caption"),
}


def _found(folder: Path, name: str, sentence: str) -> list[str]:
    template, kind = TEXTS[name]
    path = folder / name
    path.write_text(template.format(sentence), encoding="utf-8")
    passages = list(prose.passages(path))
    assert kind in {each.kind for each in passages}
    return [problem for _, problem in prose.problems(passages)]


@pytest.mark.parametrize("rule", prose.RULES["words"], ids=lambda rule: rule["example"])
def test_a_rule_finds_its_example(tmp_path: Path, rule: dict[str, str]) -> None:
    assert any(rule["say"] in each for each in _found(tmp_path, "c.py", rule["example"]))


@pytest.mark.parametrize("name", TEXTS)
def test_every_kind_of_text_is_checked(tmp_path: Path, name: str) -> None:
    assert any("again" in each for each in _found(tmp_path, name, "The folder is made anew."))
    assert any("words in a sentence" in each for each in _found(tmp_path, name, LONG))
    assert any("cliché" in each for each in _found(tmp_path, name, "At the end of the day, the model learns."))
    assert not _found(tmp_path, name, "The stage writes the folder again.")


def test_code_is_no_prose(tmp_path: Path) -> None:
    sentence = "The folder is made `anew`."
    assert not _found(tmp_path, "a.md", sentence)
    assert not _found(tmp_path, "c.py", sentence)
    assert not _found(tmp_path, "a.md", "```\nThe folder is made anew.\n```")
