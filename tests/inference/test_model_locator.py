import shutil
import subprocess
from pathlib import Path

import mlflow
import pytest
from dvc.repo import Repo

from aelab.core.errors import UserError
from aelab.inference.model_locator import located
from aelab.models import checkpoint
from tests.support.toys import IMAGE, PARAMETERS


def save(path: Path, variant: str = "ae", seed: int = 0) -> Path:
    checkpoint.save(checkpoint.build(variant, IMAGE, PARAMETERS[variant], seed=seed), path)
    return path


def content(model: str) -> tuple[bytes, str]:
    """The weights of a model, and what they are called."""
    with located(model) as (path, name):
        return path.read_bytes(), name


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
        ("empty", "the folder empty holds no model"),
        ("HEAD:models/vae", "models/vae cannot be had from the revision 'HEAD'"),
    ],
)
def test_what_is_not_there_is_told(model: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=problem):
        content(model)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.filterwarnings("ignore")  # of DVC's packages
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
        with Repo() as repo:
            repo.add("models/ae")
        run("git", "add", "-A")
        run("git", "commit", "-qm", f"seed {seed}")
    path = "models/ae/seed0.safetensors"
    assert content(f"HEAD~1:{path}") == (weights[0], f"HEAD~1:{path}")
    assert content("HEAD~1:models/ae") == (weights[0], f"HEAD~1:{path}")
    assert content(path)[0] == content("HEAD:models/ae")[0] == weights[1]
    monkeypatch.chdir(tmp_path / "models")  # a path is one from here, as everywhere
    assert content("HEAD~1:ae")[0] == weights[0]
    with pytest.raises(UserError, match="from the revision 'no-such'"):
        content("no-such:ae")
    with pytest.raises(UserError, match="cannot be had from the revision 'HEAD'"):
        content("HEAD:vae")
    shutil.rmtree(tmp_path / ".dvc/cache")
    with pytest.raises(UserError, match="dvc fetch --all-commits"):
        content("HEAD~1:ae")


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_that_has_no_such_model_says_so(uri: str) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        with pytest.raises(UserError, match=r"MLflow at sqlite.* has no model models:/none@champion: .*make track"):
            content("models:/none@champion")
    finally:
        mlflow.set_tracking_uri(before)
