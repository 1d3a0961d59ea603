"""Ways to run the pipeline: in place, as an experiment, in an experiment's copy, in a worktree."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.project import SIDE_BY_SIDE, Project

TARGET = "train@ae"


def said(project: Project, *command: str) -> str:
    done = project.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def here(*command: str) -> Callable[[Project], str]:
    def way(project: Project) -> str:
        said(project, *command)
        return (project.folder / "dvc.lock").read_text(encoding="utf-8")

    return way


def noted(project: Project) -> str:
    """Return the dvc.lock of the only experiment."""
    name = said(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/only").strip()
    return said(project, "git", "show", f"{name}:dvc.lock")


def in_a_copy(project: Project) -> str:
    said(project, "dvc", "exp", "run", "--temp", "--name", "only", TARGET)
    return noted(project)


def queued(project: Project) -> str:
    said(project, "dvc", "exp", "run", "--queue", "--name", "only", TARGET)
    project.git("checkout", "--quiet", "src")  # the workspace changes, the queued experiment does not
    said(project, "dvc", "exp", "run", "--run-all")
    return noted(project)


def in_a_worktree(project: Project) -> str:
    project.git("commit", "--quiet", "--all", "--message", "other weights")
    other = project.folder.parent / "worktree"
    project.git("worktree", "add", "--quiet", "--detach", str(other))
    return here("dvc", "repro", TARGET)(Project(other))


WAYS = {
    "dvc repro": here("dvc", "repro", TARGET),
    "make repro": here(*SIDE_BY_SIDE),
    "dvc exp run": here("dvc", "exp", "run", TARGET),
    "dvc exp run --temp": in_a_copy,
    "dvc exp run --queue": queued,
    "dvc repro in a worktree": in_a_worktree,
}


def model(lock: str) -> Any:
    return YAML(typ="safe", pure=True).load(lock)["stages"][TARGET]["outs"][0]["md5"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Make a project with one small entry."""
    project = Project(tmp_path_factory.mktemp("begun") / "project")
    params = project.params()
    params["variants"] = {"ae": params["variants"]["ae"]}
    params["variants"]["ae"]["network"]["width"] = 8
    params["seeds"], params["training"]["steps"] = [0], 4
    project.write_params(params)
    dvc = YAML(typ="safe", pure=True).load(project.folder / "dvc.yaml")  # only the stages that a training needs
    dvc["stages"] = {name: dvc["stages"][name] for name in ("download", "sources", "train")}
    YAML().dump({"stages": dvc["stages"]}, project.folder / "dvc.yaml")
    project.git("commit", "--quiet", "--all", "--message", "small")
    return project


def copied(begun: Project, folder: Path, *, edited: bool) -> Project:
    """Make a copy, with the committed code or with code that gives other weights."""
    project = Project(shutil.copytree(begun.folder, folder / "project", symlinks=True))
    if edited:
        code = project.folder / "src/aelab/models/checkpoint.py"
        text = code.read_text(encoding="utf-8")
        assert "torch.manual_seed(seed)" in text
        code.write_text(text.replace("torch.manual_seed(seed)", "torch.manual_seed(seed + 1)"), encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def models(begun: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    """Return the models of the committed and of the edited code, trained by `dvc repro`."""
    found = {
        edited: model(WAYS["dvc repro"](copied(begun, tmp_path_factory.mktemp("repro"), edited=edited)))
        for edited in (False, True)
    }
    assert found[False] != found[True]
    return found


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"dvc repro"}))
def test_each_way_runs_its_own_code_and_gives_the_same_bits(
    way: str, begun: Project, models: dict[bool, Any], tmp_path: Path
) -> None:
    assert model(WAYS[way](copied(begun, tmp_path, edited=True))) == models[True]


def test_an_experiment_runs_again_where_no_output_of_the_commit_is(begun: Project, tmp_path: Path) -> None:
    """Its dvc.lock names outputs that a new clone lacks, and the second run comes entirely from the run cache."""
    project = copied(begun, tmp_path, edited=False)
    said(project, "dvc", "repro", "sources")
    project.git("add", "dvc.lock")
    project.git("commit", "--quiet", "--message", "what was run")
    for folder in ("sources", ".dvc/cache"):
        shutil.rmtree(project.folder / folder)
    params = project.params()
    params["variants"]["twin"] = params["variants"]["ae"]  # sources/ then differs from the commit
    project.write_params(params)
    first = in_a_copy(project)
    project.git("update-ref", "-d", said(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").split()[0])
    assert model(in_a_copy(project)) == model(first)
