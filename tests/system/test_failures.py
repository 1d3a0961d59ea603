"""Failures of the real DAG are reported in sentences, and no result is lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.project import SIDE_BY_SIDE, Project


def results(folder: Path) -> dict[str, bytes]:
    places = ("data", "models", "evaluation", "provenance", "reports")
    files = [path for place in places for path in (folder / place).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextmanager
def changed(project: Project, name: str = "params.yaml") -> Iterator[Path]:
    """Change a file inside the block; all results must stay unchanged."""
    path, before = project.folder / name, results(project.folder)
    text = path.read_text()
    try:
        yield path
    finally:
        path.write_text(text)
    assert len(before) > 50
    assert results(project.folder) == before


def test_a_failure_in_the_middle_of_a_stage_loses_nothing(shared_copy: Project) -> None:
    with changed(shared_copy, "src/aelab/evaluation/figures.py") as figures:
        figures.write_text(figures.read_text().replace("def code_usage(", "def renamed("))  # fails after 2 figures
        done = shared_copy.run("dvc", "repro", "--force", "--single-item", "evaluate@vqvae")
    assert done.returncode != 0


@pytest.mark.parametrize(
    "command",
    [
        SIDE_BY_SIDE,
        ("dvc", "repro"),
        ("dvc", "repro", "--force", "--single-item", "evaluate@vae"),
    ],
)
def test_bad_parameters_lose_nothing(shared_copy: Project, command: tuple[str, ...]) -> None:
    with changed(shared_copy):
        params = shared_copy.params()
        params["variants"]["vae"]["beta"] = -1.0
        params["dataset"]["validation"] = 0.0
        shared_copy.write_params(params)
        done = shared_copy.run(*command)
    assert done.returncode != 0
    assert "params.yaml: variants.vae.beta is -1.0: must be greater than or equal to 0" in done.stderr
    assert "params.yaml: dataset.validation is 0.0: must be greater than or equal to 0.01" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [SIDE_BY_SIDE, ("dvc", "repro")])
def test_an_unknown_key_is_said_even_if_nothing_else_changed(shared_copy: Project, command: tuple[str, ...]) -> None:
    """Only in the project's own sections; other sections belong to the user."""
    with changed(shared_copy):
        shared_copy.write_params(shared_copy.params() | {"experiment": {"name": "mine"}})
        done = shared_copy.run("dvc", "status", "train@vae")
        assert done.stdout.strip() == "Data and pipelines are up to date.", done.stdout + done.stderr
        params = shared_copy.params()
        params["corruption"]["experiment"] = 3
        shared_copy.write_params(params)
        done = shared_copy.run(*command)
    assert done.returncode != 0
    assert "params.yaml: corruption.experiment is an unknown key; known here: seed," in done.stderr


def test_inputs_that_nothing_writes_are_one_sentence(shared_copy: Project) -> None:
    with changed(shared_copy):
        params = shared_copy.params()
        params["variants"]["dae"]["inputs"] = "maskd"
        shared_copy.write_params(params)
        done = shared_copy.run(*SIDE_BY_SIDE)
    assert done.returncode == 1
    assert done.stderr.strip().startswith('params.yaml: variants.dae.inputs is "maskd": must be clean or the name of')
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_name_in_the_parameters_never_reaches_a_shell(shared_copy: Project) -> None:
    with changed(shared_copy):
        params = shared_copy.params()
        params["variants"]["x'$(touch pwned)'"] = params["variants"]["dae"]
        shared_copy.write_params(params)
        done = shared_copy.run("dvc", "repro", "--force", "--single-item", "train@x'$(touch pwned)'")
    assert done.returncode != 0
    assert "an entry's name is made of letters, digits, - and _" in done.stderr
    assert not list(shared_copy.folder.rglob("pwned"))
