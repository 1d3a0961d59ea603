"""Where a trained model is taken from: a file, a folder of seeds, a revision that DVC knows, or MLflow.

    models/vae/seed1.safetensors           a file
    models/vae                             a folder: its first seed
    HEAD~1:models/vae/seed0.safetensors    either of them as of a Git revision, tag or DVC experiment
    models:/reconstruction@champion        what MLflow has registered under a name; models:/name/2 is a version of it
    runs:/<run id>/vae-seed0               the model of a run in MLflow

Whatever the place, only the weights are read, which carry their own hash: no code and no pickle that lies beside them.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aelab.core.errors import UserError

SUFFIX = ".safetensors"
IN_MLFLOW = re.compile(r"(models|runs|mlflow-artifacts):/")
HELP = "`dvc pull` brings trained ones, `make repro` trains them"


@contextmanager
def located(model: str) -> Iterator[tuple[Path, str]]:
    """The weights of `model`, written as above, as a file for as long as the block, and their name for a message.

    Raises:
        UserError: there is no such model.
    """
    path = Path(model)
    with tempfile.TemporaryDirectory() as folder:
        if IN_MLFLOW.match(model):
            yield _from_mlflow(model, Path(folder)), model
        elif path.is_dir():
            name = f"{path}/{_first((each.name for each in path.iterdir()), model)}"
            yield Path(name), name
        elif path.exists():
            yield path, model
        elif ":" in model:
            revision, _, inside = model.partition(":")
            yield _from_dvc(inside, revision, Path(folder))
        else:
            msg = f"there is no model {model}: name a file such as models/vae/seed0{SUFFIX}, or its folder; {HELP}"
            raise UserError(msg)


def _first(names: Iterable[str], folder: str) -> str:
    """The weights of the first seed in a folder."""
    found = [name for name in names if name.endswith(SUFFIX)]
    if not found:
        msg = f"the folder {folder} holds no model, a file that ends in {SUFFIX}; {HELP}"
        raise UserError(msg)
    return min(found, key=lambda name: (len(name), name))  # seed2 before seed10


def _from_dvc(path: str, revision: str, folder: Path) -> tuple[Path, str]:
    """The file `path` of the repository at `revision`, out of Git or DVC's cache or remote."""
    from dvc.api import DVCFileSystem  # noqa: PLC0415 - slow to import
    from dvc.exceptions import DvcException  # noqa: PLC0415
    from scmrepo.exceptions import SCMError  # noqa: PLC0415

    try:
        there = DVCFileSystem(rev=revision)
        inside = Path(os.path.relpath(Path(path).resolve(), there.repo.scm.root_dir)).as_posix()
        if there.isdir(inside):
            inside = f"{inside}/{_first((Path(each).name for each in there.ls(inside, detail=False)), path)}"
        copy = folder / Path(inside).name
        copy.write_bytes(there.read_bytes(inside))
    except (DvcException, SCMError, OSError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        msg = f"{path} cannot be had from the revision {revision!r}: {said}; `dvc fetch --all-commits` may bring it"
        raise UserError(msg) from error
    return copy, f"{revision}:{inside}"


def _from_mlflow(uri: str, folder: Path) -> Path:
    """The weights of a model at $MLFLOW_TRACKING_URI or, without it, in the database of the current folder."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a server that is away costs seconds only
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow  # noqa: PLC0415 - slow to import
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))
    except (MlflowException, OSError) as error:
        said = " ".join(str(error).split())
        msg = f"MLflow at {mlflow.get_tracking_uri()} has no model {uri}: {said}; `make track` writes what is on disk"
        raise UserError(msg) from error
    found = sorted(folder.rglob(f"*{SUFFIX}"))
    if len(found) != 1:
        msg = f"{uri} holds {len(found)} files that end in {SUFFIX}; a model of this project is one"
        raise UserError(msg)
    return found[0]
