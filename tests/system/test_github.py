"""Files that GitHub reads: each one follows its published schema, and everything that a workflow names exists."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.project import REPOSITORY
from tests.system.test_docs import command

WORKFLOWS = ".github/workflows/*.yml"
FORMS = ".github/ISSUE_TEMPLATE/[!c]*.yml"
SCHEMAS = [
    ("vendor.github-workflows", WORKFLOWS),
    ("custom.github-workflows-require-timeout", WORKFLOWS),
    ("vendor.github-issue-forms", FORMS),
    ("vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
    ("vendor.dependabot", ".github/dependabot.yml"),
    ("vendor.citation-file-format", "CITATION.cff"),
    ("vendor.compose-spec", "compose.yaml"),
]
PROGRAMS = {"make", "cat", "gh"}  # programs on GitHub's machines
CHECKOUT = "actions/checkout@"


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def parsed(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def validated(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    """Check files against the schemas that check-jsonschema includes, offline."""
    arguments = ["--builtin-schema", schema, "--default-filetype", "yaml", *map(str, files)]
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("schema", "pattern"), SCHEMAS)
def test_a_file_follows_its_schema(schema: str, pattern: str) -> None:
    files = sorted(REPOSITORY.glob(pattern))
    assert files
    done = validated(schema, *files)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("schema", "name", "old", "new"),
    [
        ("vendor.github-workflows", ".github/workflows/tests.yml", "runs-on:", "run-on:"),
        ("custom.github-workflows-require-timeout", ".github/workflows/docs.yml", "timeout-minutes: 30", ""),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/bug.yml", "label: The output", ""),
        ("vendor.dependabot", ".github/dependabot.yml", "github-actions", "github-action"),
        ("vendor.citation-file-format", "CITATION.cff", "authors:", "writers:"),
        ("vendor.compose-spec", "compose.yaml", "restart:", "restarts:"),
    ],
)
def test_a_file_that_does_not_follow_its_schema_is_refused(
    schema: str, name: str, old: str, new: str, tmp_path: Path
) -> None:
    broken = tmp_path / Path(name).name
    broken.write_text(text_of(name).replace(old, new), encoding="utf-8")
    assert validated(schema, broken).returncode == 1


def problems(text: str) -> Iterator[str]:
    """Yield the problems that the schema of workflows does not cover."""
    workflow = parsed(text)
    if "permissions" not in workflow:
        yield "it takes the repository's default permissions"
    if "secrets" in text:
        yield "it asks for a secret"
    events = [workflow["on"]] if isinstance(workflow["on"], str) else workflow["on"]
    if privileged := {"pull_request_target", "workflow_run"}.intersection(events):
        yield f"{privileged} would give code of a pull request a token that can write"
    for used in re.findall(r"uses: (.*)", text):
        if not re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used):
            yield f"{used} is not GitHub's own action, pinned by commit and version"
    for name, job in workflow["jobs"].items():
        checkouts = [step for step in job["steps"] if step.get("uses", "").startswith(CHECKOUT)]
        permitted = {**workflow.get("permissions", {}), **job.get("permissions", {})}
        if checkouts and "write" in permitted.values():
            yield f"{name} runs code of the repository with a token that can write"
        if any(step.get("with", {}).get("persist-credentials") is not False for step in checkouts):
            yield f"{name} leaves its token in the checkout"
        for step in job["steps"]:
            yield from (said for line in step.get("run", "").splitlines() if (said := refused(line)))


def refused(line: str) -> str | None:
    """Return the problem of a line of shell; None if there is none."""
    program = shlex.split(line)[0]
    if "${{" in line:
        return f"{line}: a value of the event becomes code; an environment variable would not"
    if "/" in program and not os.access(REPOSITORY / program, os.X_OK):
        return f"{line}: there is no program {program}"
    if "/" not in program and program not in PROGRAMS:
        return f"{line}: nothing says that {program} is installed"
    return command(line)


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob(WORKFLOWS)), ids=lambda path: path.stem)
def test_a_workflow_names_what_is_there_and_gives_nothing_away(path: Path) -> None:
    assert list(problems(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tests", "make lint", "make lints"),
        ("tests", "make lint", ".ci/walk"),
        ("tests", "make lint", "python -m pipeline.nothing"),
        ("tests", "make lint", "make lint NAME=${{ github.head_ref }}"),
        ("tests", "permissions: {contents: read}", ""),
        ("tests", "permissions: {contents: read}", "permissions: {contents: write}"),
        ("tests", "{persist-credentials: false}", "{fetch-depth: 1}"),
        ("tests", "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7"),
        ("tests", "uses: actions/setup-python", "uses: somebody/setup-python"),
        ("compare", "on: pull_request", "on: pull_request_target"),
        ("compare", "github.token", "secrets.TOKEN"),
    ],
)
def test_a_workflow_that_does_not_is_noticed(name: str, old: str, new: str) -> None:
    text = text_of(f".github/workflows/{name}.yml")
    assert old in text
    assert list(problems(text.replace(old, new)))


def test_the_workflow_of_tests_makes_what_the_local_script_makes() -> None:
    made = re.compile(r"^(?: *- run: )?make (lint|test|check)$", re.MULTILINE)
    local = made.findall(text_of(".ci/run"))
    assert local == made.findall(text_of(".github/workflows/tests.yml")) == ["lint", "test"]


def test_the_tests_begin_with_the_oldest_python_that_is_allowed() -> None:
    matrix = parsed(text_of(".github/workflows/tests.yml"))["jobs"]["tests"]["strategy"]["matrix"]
    assert tomllib.loads(text_of("pyproject.toml"))["project"]["requires-python"] == f">={matrix['python'][0]}"


def test_the_citation_is_of_this_version() -> None:
    cited, project = parsed(text_of("CITATION.cff")), tomllib.loads(text_of("pyproject.toml"))["project"]
    assert [cited[key] for key in ("version", "license")] == [project[key] for key in ("version", "license")]


def test_the_container_for_development_is_set_up_by_make() -> None:
    container = json.loads(text_of(".devcontainer/devcontainer.json"))
    assert refused(container["postCreateCommand"]) is None
    assert re.fullmatch(r"python:3\.\d+", container["image"])
