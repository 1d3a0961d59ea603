"""Experiments run by DVC in a user's environment: their effect on the checkout, and commands that show them."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tests.support.markdown import blocks
from tests.support.project import REPOSITORY, Project
from tests.system.conftest import Copy

PAGE = (REPOSITORY / "docs/dvc-and-mlflow.md").read_text(encoding="utf-8")
PUBLISH = r"^\(cd reports && cp .*$"


def commands(containing: str) -> list[str]:
    """Return the lines of the page's block of shell that contains this text."""
    (found,) = (each.code for each in blocks(PAGE) if each.language == "sh" and containing in each.code)
    return [line.split("  #")[0] for line in found.splitlines()]


def shell(project: Project, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run the commands as a user would, without the tests' variables."""
    environment = project.environment(COLUMNS="120")
    environment.pop("PYTHONPATH", None)
    command = ["bash", "-ec", "\n".join(lines)]
    return subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, check=False)


def checkout(project: Project) -> dict[str, str]:
    """Return the hash of every file that git tracks."""
    listed = project.run("git", "ls-files").stdout.splitlines()
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if (path := project.folder / name).exists() else "gone"
        for name in listed
    }


@pytest.fixture(scope="module")
def swept(copy: Copy) -> tuple[Project, dict[str, str]]:
    """Commit the results of a project and run the page's sweep of β; return the files from before."""
    project = copy("swept")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "results")
    before = checkout(project)
    queue, run, _ = commands("--queue")
    assert queue == "dvc exp run --queue -S variants.vae.beta=0.5,2,4"
    done = shell(project, "dvc exp run --queue -S variants.vae.beta=2,4", run)
    assert done.returncode == 0, done.stdout + done.stderr
    return project, before


def test_a_queue_leaves_the_checkout_as_it_was(swept: tuple[Project, dict[str, str]]) -> None:
    project, before = swept
    assert checkout(project) == before
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_a_sweep_ends_in_one_page_and_one_table(swept: tuple[Project, dict[str, str]]) -> None:
    project, _ = swept
    done = shell(project, commands("--queue")[2])
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("\n\n")[0].splitlines()
    said = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert said[0] == ["entry", "beta", "MSE ↓", "denoising MSE ↓", "−ELBO (nats) ↓", "revisions"]
    entries = [["dae", ""], ["vae", "1"], ["vae", "2"], ["vae", "4"], ["vqvae", ""], ["pca", ""]]
    assert [row[:2] for row in said[2:]] == entries
    assert [row[-1] == "all" for row in said[2:]] == [True, False, False, False, True, True]
    assert max(map(len, done.stdout.splitlines())) <= 120
    html = (project.folder / "sweep.html").read_text()
    assert "<title>vae: beta = 1, 2, 4</title>" in html
    contrasts = re.findall(r"<h3 id=[^>]*>(vae[^<]* → [^<]*)<", html)
    assert sorted(contrasts) == ["vae beta=1 → vae beta=2", "vae beta=1 → vae beta=4"]
    assert len(pd.read_csv(project.folder / "sweep.csv")) == 6
    for name in ("sweep.html", "sweep.csv"):
        (project.folder / name).unlink()


def test_dvc_shows_what_differs_beside_the_metrics_in_a_terminal(swept: tuple[Project, dict[str, str]]) -> None:
    (line,) = commands("--only-changed")
    done = shell(swept[0], f"{line} --no-pager")
    assert done.returncode == 0, done.stderr
    (head,) = (each for each in done.stdout.splitlines() if "Experiment" in each)
    assert head.split() == ["Experiment", "vae.mse", "vae.denoising_mse", "vae.neg_elbo", "variants.vae.beta"]
    assert len(re.findall(r"\[[\w-]+\]", done.stdout)) == 2
    assert "…" not in done.stdout


def test_a_temporary_experiment_leaves_the_checkout_and_a_run_in_it_does_not_and_there_is_a_way_back(
    swept: tuple[Project, dict[str, str]],
) -> None:
    project, before = swept
    temporary = [line for line in commands("--temp -n beta4") if "beta4" in line]
    done = shell(project, *temporary)
    assert done.returncode == 0, done.stdout + done.stderr
    assert checkout(project) == before
    assert project.run("git", "status", "--porcelain").stdout == ""
    stored = project.lock()
    done = shell(project, temporary[0].replace(" --temp -n beta4", "").replace("beta=4", "beta=8"))
    assert done.returncode == 0, done.stdout + done.stderr
    changed = {name for name, digest in checkout(project).items() if digest != before[name]}
    assert {"params.yaml", "dvc.lock", "reports/comparison.html", "reports/figures/denoising.png"} <= changed
    assert not [name for name in changed if name.startswith(("docs/", "README"))]  # no picture of a page has changed
    done = shell(project, "python -m pipeline.tools.reference --check")
    assert done.returncode == 0, done.stderr  # the pages show the code's defaults, not this run's parameters
    (project.folder / "reports/figures/new.svg").write_text("of an entry that the commit does not have")
    done = shell(project, *commands("git clean"))
    assert done.returncode == 0, done.stderr
    assert checkout(project) == before
    assert project.run("git", "status", "--porcelain").stdout == ""
    assert project.lock() == stored
    assert project.run("dvc", "status", "--json").stdout.strip() == "{}"


def test_what_the_readme_shows_is_copied_by_one_command(finished: Project, tmp_path: Path) -> None:
    """The command copies the table and pictures from the report of any run."""
    (line,) = re.findall(PUBLISH, (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    shutil.copytree(finished.folder / "reports", tmp_path / "reports")
    (tmp_path / "docs/published").mkdir(parents=True)
    subprocess.run(["bash", "-ec", line], cwd=tmp_path, check=True)
    copied = {path.name for path in (tmp_path / "docs/published").iterdir()}
    assert copied | {"report.png", "mlflow.png"} == {path.name for path in (REPOSITORY / "docs/published").iterdir()}
