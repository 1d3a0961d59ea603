"""Fixtures with the DAG on the digits, run once for all tests: `finished` is for reading, `copied` for writing."""

from collections.abc import Callable, Iterator

import pytest
from filelock import FileLock

from tests.support.browser import BROWSER
from tests.support.project import Project

FLOOR = "pca"
# One entry that sees noise, one with a likelihood, one with a quantiser and a prior, one without a training.
ENTRIES = ("dae", "vae", "vqvae", FLOOR)
Copy = Callable[[str], Project]


def small(project: Project) -> None:
    """Set parameters with which the DAG takes little more than its imports."""
    params = project.params()
    params["variants"] = {name: params["variants"][name] for name in ENTRIES}
    for section in params["variants"].values():
        if "network" in section:
            section["network"]["width"] = 8
    params["variants"]["vqvae"]["prior"] |= {"width": 16, "layers": 1, "heads": 2}
    params["corruption"]["train"] = {"masked": params["corruption"]["train"]["masked"]}
    params["corruption"]["test"] = {"masking": [0.25, 0.5], "gaussian": [0.25], "salt_and_pepper": [0.25]}
    few = {"images": 4, "samples": 64, "noisy_images": 50, "importance": {"samples": 20, "images": 4}}
    params["evaluation"] |= few
    params["evaluation"]["classifier"]["steps"] = 4
    project.write_params(params)


@pytest.fixture(scope="module", autouse=True)
def _one_browser_for_a_file() -> Iterator[None]:
    yield
    BROWSER.end()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """Run the DAG with two stages at a time, for tests that only read the results."""
    place = tmp_path_factory.getbasetemp()
    place = place if worker_id == "master" else place.parent  # the workers share this folder
    done = place / "finished.done"
    with FileLock(place / "finished.lock"):
        if not done.exists():
            project = Project(place / "finished")
            small(project)
            done.write_text("\n".join(project.side_by_side()))
    return Project(place / "finished")


@pytest.fixture(scope="module")
def copy(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """Return a function that copies the finished DAG, for one test or for consecutive tests of a file."""
    made: list[Project] = []

    def make(name: str) -> Project:
        made.append(finished.copy(tmp_path_factory.mktemp(name) / "project"))
        return made[-1]

    yield make
    for project in made:
        project.end()


@pytest.fixture
def copied(copy: Copy) -> Project:
    """Return a copy of the finished DAG for one test."""
    return copy("copied")


@pytest.fixture(scope="module")
def shared_copy(copy: Copy) -> Project:
    """Return a copy of the finished DAG for the tests of a file, which must leave it unchanged."""
    return copy("shared")
