"""Where a trained model is taken from: a file, a folder of seeds, a revision that DVC knows, or MLflow.

    models/vae/seed1.safetensors           a file
    models/vae                             a folder: its first seed
    HEAD~1:models/vae/seed0.safetensors    either of them as of a Git revision, tag or DVC experiment
    models:/mnist-denoising@champion       what MLflow has registered under a name; models:/name/2 is a version of it
    runs:/<run id>/mnist-vae-seed0         the model of a run in MLflow

Whatever the place, only the weights are read, which carry their own hash: no code and no pickle that lies beside them.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aelab.core.errors import UserError
from aelab.inference import mlflow_store

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
    mlflow_store.prepare()
    import mlflow  # noqa: PLC0415 - slow to import

    if not mlflow.is_tracking_uri_set():  # MLflow's own default has a % for each space of the folder's name
        mlflow.set_tracking_uri(mlflow_store.address(Path.cwd()))
    at = mlflow.get_tracking_uri()
    file = mlflow_store.file_of(at)
    if file is not None and not file.exists():  # MLflow would make one
        msg = (
            f"there is no {file.name} in the folder {file.resolve().parent}, so no model {uri}: go to the project's "
            "folder, or set MLFLOW_TRACKING_URI; `make track` writes what is on disk"
        )
        raise UserError(msg)
    try:
        mlflow_store.check(at)
        with mlflow_store.explained(at):
            mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))
    except UserError:
        raise
    except Exception as error:  # of MLflow, a database, a network or a store of artifacts
        msg = (
            f"MLflow at {mlflow_store.public(at)} has no model {uri}: {mlflow_store.said(error)}; `make track` writes "
            "what is on disk"
        )
        raise UserError(msg) from error
    found = sorted(folder.rglob(f"*{SUFFIX}"))
    if len(found) != 1:
        msg = f"{uri} holds {len(found)} files that end in {SUFFIX}; a model of this project is one"
        raise UserError(msg)
    return found[0]
