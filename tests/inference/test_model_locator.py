import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import mlflow
import pytest
from dvc.repo import Repo

from aelab.core import disk
from aelab.core.errors import UserError
from aelab.inference.model_locator import located
from aelab.models import checkpoint
from tests.support import servers
from tests.support.runs import champion, projector_at, toy_run
from tests.support.toys import IMAGE, PARAMETERS


def save(path: Path, variant: str = "ae", seed: int = 0) -> Path:
    checkpoint.save(checkpoint.build(variant, IMAGE, PARAMETERS[variant], seed=seed), path)
    return path


def content(model: str) -> tuple[bytes, str]:
    """Content of a model's weights, and the model's name."""
    with located(model) as (path, name, _):
        return path.read_bytes(), name


def validation(model: str) -> dict[str, Any]:
    """Scores of a model's validation images."""
    with located(model) as found:
        return found.validation()


def scored(folder: Path, images: int) -> None:
    """Write scores for models/ae/seed0.safetensors, where the stage evaluate writes them."""
    weights = disk.digest(folder / "models/ae/seed0.safetensors")
    disk.write_json(folder / "evaluation/ae/seed0/scores.json", {"weights": weights, "images": images})


def test_scores_are_of_the_weights_that_they_name(tmp_path: Path) -> None:
    path = save(tmp_path / "models/ae/seed0.safetensors")
    assert validation(str(path)) == {}
    scored(tmp_path, images=5)
    assert validation(str(path)) == validation(str(path.parent)) == {"images": 5}
    save(path, seed=1)
    assert validation(str(path)) == {}


def test_a_file_and_a_folder(tmp_path: Path) -> None:
    weights = {seed: save(tmp_path / f"seed{seed}.safetensors", seed=seed).read_bytes() for seed in (2, 10)}
    (tmp_path / "seed0.json").write_text("{}")
    file = str(tmp_path / "seed10.safetensors")
    assert content(file) == (weights[10], file)
    assert content(str(tmp_path)) == (weights[2], str(tmp_path / "seed2.safetensors"))


def test_a_file_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("a:b.safetensors"))
    assert content("a:b.safetensors")[1] == "a:b.safetensors"


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("none", "there is no model none: name a file such as models/vae/seed0.safetensors"),
        ("empty", "the folder empty contains no model"),
        ("HEAD:models/vae", "models/vae cannot be read from the revision 'HEAD'"),
    ],
)
def test_what_is_not_there_is_told(model: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=problem):
        content(model)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.filterwarnings("ignore")  # warnings of DVC's packages
def test_a_revision_out_of_dvcs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "n")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "n@localhost")
    run("git", "init", "-q")
    Repo.init().close()
    weights = []
    for seed in (0, 1):
        weights.append(save(tmp_path / "models/ae/seed0.safetensors", seed=seed).read_bytes())
        scored(tmp_path, images=seed)
        with Repo() as repo:
            repo.add(["models/ae", "evaluation/ae"])
        run("git", "add", "-A")
        run("git", "commit", "-qm", f"seed {seed}")
    path = "models/ae/seed0.safetensors"
    assert content(f"HEAD~1:{path}") == (weights[0], f"HEAD~1:{path}")
    assert content("HEAD~1:models/ae") == (weights[0], f"HEAD~1:{path}")
    assert [validation(model) for model in ("HEAD~1:models/ae", path)] == [{"images": 0}, {"images": 1}]
    assert content(path)[0] == content("HEAD:models/ae")[0] == weights[1]
    monkeypatch.chdir(tmp_path / "models")  # paths are relative to the current folder
    assert content("HEAD~1:ae")[0] == weights[0]
    with pytest.raises(UserError, match="from the revision 'no-such'"):
        content("no-such:ae")
    with pytest.raises(UserError, match="cannot be read from the revision 'HEAD'"):
        content("HEAD:vae")
    shutil.rmtree(tmp_path / ".dvc/cache")
    with pytest.raises(UserError, match="dvc fetch --all-commits"):
        content("HEAD~1:ae")


Point: TypeAlias = Callable[[str | None], None]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Point]:
    """Function that sets MLFLOW_TRACKING_URI, or removes the variable."""
    before = mlflow.get_tracking_uri()

    def point_to(uri: str | None) -> None:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if uri:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    yield point_to
    mlflow.set_tracking_uri(before)


@pytest.mark.filterwarnings("ignore")  # MLflow's own
@pytest.mark.parametrize("model", ["models:/none@champion", "models:/none/1", "runs:/0123/vae-seed0"])
def test_mlflow_that_has_no_such_model_says_so(model: str, uri: str, at: Point) -> None:
    at(uri)
    with pytest.raises(UserError, match=rf"MLflow at sqlite.* has no model {model}: .*make track"):
        content(model)


@pytest.mark.parametrize("model", ["models:/mnist-denoising@champion", "models:/a/1", "runs:/0123/vae-seed0"])
@pytest.mark.parametrize(
    "uri", [None, "sqlite:///{}/mlflow.db", "sqlite:///mlflow.db", "sqlite:///{}/no/folder/runs.db"]
)
def test_to_read_makes_no_database(
    uri: str | None, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: Point
) -> None:
    monkeypatch.chdir(tmp_path)
    at(uri.format(tmp_path) if uri else None)
    folder = tmp_path / "no/folder" if uri and "no/folder" in uri else tmp_path
    name = "runs.db" if folder != tmp_path else "mlflow.db"
    with pytest.raises(UserError, match=rf"there is no {name} in the folder {folder}, .*no model {model}: .*MLFLOW"):
        content(model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # MLflow's own
@pytest.mark.parametrize("name", ["my project", "pröject", "50% done", "a#b"])
def test_a_database_is_found_in_a_folder_of_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: Point, empty: Path
) -> None:
    (tmp_path / name).mkdir()
    shutil.copy(empty, tmp_path / name / "mlflow.db")
    monkeypatch.chdir(tmp_path / name)
    at(None)
    with pytest.raises(UserError, match=r"MLflow at sqlite.* has no model models:/none/1: "):
        content("models:/none/1")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_what_stands_between_the_reader_and_mlflow_is_told(tmp_path: Path, at: Point) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 99)
    for uri, problem in {
        f"sqlite:///{tmp_path}/mlflow.db": "no database at all",
        "htp://server": "not an MLflow address",
        f"http://127.0.0.1:{servers.free_port()}": "has no model models:/a@champion: API request to",
    }.items():
        at(uri)
        with pytest.raises(UserError, match=problem):
            content("models:/a@champion")


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_a_champion_is_read_by_its_name(uri: str, tmp_path: Path, at: Point) -> None:
    run, projector = toy_run(tmp_path), projector_at(uri, tmp_path)
    assert run.evaluated is not None
    assert run.evaluated.weights is not None
    scores = tmp_path / "scores.json"
    disk.write_json(scores, {"weights": disk.digest(run.evaluated.weights), "images": 7})
    projector.project(replace(run, evaluated=replace(run.evaluated, scores=scores)))
    projector.promote(champion())
    at(uri)
    assert content("models:/toy-denoising@champion")[0] == run.evaluated.weights.read_bytes()
    assert validation("models:/toy-denoising@champion") == {"images": 7}
