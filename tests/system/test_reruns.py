"""Reruns after a change: a test edits a file in a finished run, and `dvc status` names the outdated stages."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
from dvc.repo import Repo

from tests.support.project import Project
from tests.system.conftest import ENTRIES


@pytest.fixture(scope="module")
def project(shared_copy: Project) -> Project:
    """Train four models for a few steps, one without a likelihood and one with a quantiser."""
    assert outdated(shared_copy) == set()
    return shared_copy


def outdated(project: Project) -> set[str]:
    """Return the stages that `dvc status` names directly; later stages follow if these change their outputs."""
    with Repo(str(project.folder)) as repo:  # the command would take seconds to start each time
        return {name.rpartition(":")[2] for name in repo.status()}


def find_sources(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the stage `sources` in this process."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    with contextlib.chdir(project.folder), Repo() as repo:
        assert [stage.addressing for stage in repo.reproduce("sources", single_item=True)] == ["sources"]


@contextmanager
def edited(project: Project, file: str, text: str = "\n# edited\n") -> Iterator[None]:
    path = project.folder / file
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((before or b"") + text.encode())
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def of(*stages: str) -> set[str]:
    return {f"{stage}@{entry}" for stage in stages for entry in ENTRIES}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        # content of the report: titles, templates, charts, and the copy in MLflow
        ("src/aelab/report/metrics.toml", {"report"}),
        ("src/aelab/report/templates/comparison.md.j2", {"report"}),
        ("src/aelab/report/charts.py", {"report"}),
        ("src/aelab/report/mlflow_writer.py", {"report"}),
        # no result depends on these: runner, cluster, tools, tests, packages for development
        ("pipeline/runner/repro.py", set()),
        ("pipeline/runner/cluster/worker.py", set()),
        ("pipeline/tools/compare.py", set()),
        ("tests/conftest.py", set()),
        ("requirements-dev.lock", set()),
        ("docs/index.md", set()),
        # the estimate of a metric
        ("src/aelab/evaluation/probes.py", {"report", *of("evaluate")}),
        # one variant
        ("src/aelab/variants/vae.py", {"sources", "train@vae", "evaluate@vae"}),
        ("src/aelab/variants/ladder.py", {"sources"}),
        # the training loop
        ("src/aelab/training/loop.py", {"classify", *of("train")}),
    ],
)
def test_a_change_reruns_what_depends_on_it(file: str, expected: set[str], project: Project) -> None:
    with edited(project, file):
        assert outdated(project) == expected


LITTER = (".DS_Store", "._vae.py", "Thumbs.db", "desktop.ini", ".vae.py.swp", "vae.py~", ".ipynb_checkpoints/vae.ipynb")


def test_what_editors_and_file_managers_leave_reruns_nothing(project: Project) -> None:
    with contextlib.ExitStack() as left:
        for folder in ("src/aelab/variants", "pipeline/common", "models/vae", "data/clean/train"):
            for name in LITTER:
                left.enter_context(edited(project, f"{folder}/{name}"))
        assert outdated(project) == set()
        left.enter_context(edited(project, "models/vae/notes.txt"))
        assert outdated(project) != set()


def test_a_clone_with_other_line_ends_has_the_same_bytes(project: Project, tmp_path: Path) -> None:
    for attributes, same in ((True, True), (False, False)):
        source, clone = tmp_path / f"source{same}", tmp_path / f"clone{same}"
        source.mkdir()
        run = partial(subprocess.run, cwd=source, check=True)
        run(["git", "init", "--quiet"])
        (source / "a.py").write_bytes(b"a\nb\n")
        if attributes:
            shutil.copy(project.folder / ".gitattributes", source)
        run(["git", "add", "--all"])
        run(["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "start"])
        run(["git", "clone", "--quiet", "--config", "core.autocrlf=true", ".", str(clone)])
        assert ((clone / "a.py").read_bytes() == b"a\nb\n") is same


def test_a_corruption_reruns_its_copies_alone(project: Project) -> None:
    """The entries that learn from them follow if the copies change."""
    params = project.params()
    changed = deepcopy(params)
    changed["corruption"]["train"]["masked"]["noise"] = {"masking": [0.6]}
    project.write_params(changed)
    try:
        assert outdated(project) == {"corrupt@masked", "report"}
    finally:
        project.write_params(params)


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("src/aelab/networks/patches.py", {"dae", "vae", "vqvae"}),
        ("src/aelab/networks/conv.py", set()),
        ("src/aelab/quantizers/fsq.py", {"vqvae"}),
        ("src/aelab/quantizers/one_of_mine.py", {"vqvae"}),
        ("src/aelab/likelihoods/logistic.py", {"vae", "vqvae"}),
        ("src/aelab/priors/mixture.py", {"vae"}),
        ("src/aelab/variants/_variational.py", {"vae"}),
        ("src/aelab/variants/_floor.py", {"pca"}),
    ],
)
def test_a_part_reruns_the_entries_whose_model_uses_its_kind(
    file: str, entries: set[str], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edited(project, file):
        assert outdated(project) == {"sources"}
        find_sources(project, monkeypatch)
        assert outdated(project) == {f"{stage}@{entry}" for stage in ("train", "evaluate") for entry in entries}
    find_sources(project, monkeypatch)
    assert outdated(project) == set()


def test_evaluations_follow_weights_and_not_the_loop(project: Project) -> None:
    params = project.params()
    project.write_params(params | {"variants": {"vqvae": params["variants"]["vqvae"]}})
    with edited(project, "src/aelab/training/loop.py"):
        assert sorted(project.repro("evaluate@vqvae")) == ["classify", "sources", "train@vqvae"]
