"""Locations of trained models: a file, a folder, a Git revision, or MLflow.

    models/vae/seed1.safetensors           a file of weights
    models/vae                             a folder with a file for each seed, of which the first seed is used
    HEAD~1:models/vae/seed0.safetensors    a file or folder in a Git revision, tag or DVC experiment
    models:/mnist-denoising@champion       a model that is registered in MLflow; models:/name/2 is its version 2
    runs:/<run id>/mnist-vae-seed0         the model of a run in MLflow

Two files are read from each location. The first file has the weights and their hash. The second file, if the evaluation
wrote it, has the anomaly scores of the validation images. Code and pickles are never loaded.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from aelab.core.errors import UserError
from aelab.evaluation.per_image import VALIDATION
from aelab.inference import mlflow_store

SUFFIX = ".safetensors"
IN_MLFLOW = re.compile(r"(models|runs|mlflow-artifacts):/")
HELP = "`dvc pull` downloads trained models, `make repro` trains them"


class Located(NamedTuple):
    """Files of a trained model."""

    path: Path  # the weights
    name: str  # the model's name in messages
    scores: Path  # anomaly scores of the validation images; the file may be missing

    def validation(self) -> dict[str, Any]:
        """Anomaly scores of the validation images, as `anomaly.reference` returns them.

        The result is empty if the file of the scores is missing or belongs to other weights.
        """
        if not self.scores.exists():
            return {}
        found: dict[str, Any] = json.loads(self.scores.read_text(encoding="utf-8"))
        same = found.pop("weights", "") == hashlib.sha256(self.path.read_bytes()).hexdigest()
        return found if same else {}


@contextmanager
def located(model: str) -> Iterator[Located]:
    """Find a model, and yield its files. Temporary copies exist until the end of the `with` block.

    Args:
        model: a location, in one of the forms that the module's docstring lists.

    Raises:
        UserError: there is no such model.
    """
    path = Path(model)
    with tempfile.TemporaryDirectory() as folder:
        if IN_MLFLOW.match(model):
            yield Located(_from_mlflow(model, Path(folder)), model, _found(Path(folder)))
        elif path.is_dir():
            name = f"{path}/{_first((each.name for each in path.iterdir()), model)}"
            yield Located(Path(name), name, _scores(Path(name)))
        elif path.exists():
            yield Located(path, model, _scores(path))
        elif ":" in model:
            revision, _, inside = model.partition(":")
            yield _from_dvc(inside, revision, Path(folder))
        else:
            msg = f"there is no model {model}: name a file such as models/vae/seed0{SUFFIX}, or its folder; {HELP}"
            raise UserError(msg)


def _scores(weights: Path) -> Path:
    """Path of the file with the validation images' scores for the weights models/ENTRY/seedK.safetensors."""
    entry = weights.absolute().parent
    return entry.parent.parent / "evaluation" / entry.name / weights.stem / VALIDATION


def _found(folder: Path) -> Path:
    """Path of the file with the validation images' scores in `folder`, which has a model's artifacts from MLflow."""
    return next(folder.rglob(VALIDATION), folder / VALIDATION)


def _first(names: Iterable[str], folder: str) -> str:
    """Return the name of the first seed's file of weights among `names`, the files in `folder`."""
    found = [name for name in names if name.endswith(SUFFIX)]
    if not found:
        msg = f"the folder {folder} contains no model (a file that ends in {SUFFIX}); {HELP}"
        raise UserError(msg)
    return min(found, key=lambda name: (len(name), name))  # seed2 before seed10


def _from_dvc(path: str, revision: str, folder: Path) -> Located:
    """Copy the model `path` of the Git revision `revision` to `folder`, from Git, DVC's cache or a remote of DVC."""
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
        scores = _scores(Path("/") / inside).relative_to("/").as_posix()
        with suppress(DvcException, OSError):  # the scores were never written, or are not in the cache
            (folder / VALIDATION).write_bytes(there.read_bytes(scores))
    except (DvcException, SCMError, OSError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        msg = f"{path} cannot be read from the revision {revision!r}: {said}; `dvc fetch --all-commits` may download it"
        raise UserError(msg) from error
    return Located(copy, f"{revision}:{inside}", folder / VALIDATION)


def _from_mlflow(uri: str, folder: Path) -> Path:
    """Download a model from MLflow to `folder`, and return the path of the weights.

    By default, the model comes from MLflow's database in the current folder.
    """
    mlflow_store.prepare()
    import mlflow  # noqa: PLC0415 - slow to import

    if not mlflow.is_tracking_uri_set():  # in MLflow's default address, %20 replaces spaces of the path
        mlflow.set_tracking_uri(mlflow_store.address(Path.cwd()))
    at = mlflow.get_tracking_uri()
    file = mlflow_store.file_of(at)
    if file is not None and not file.exists():  # MLflow would create an empty database
        msg = (
            f"there is no {file.name} in the folder {file.resolve().parent}, so no model {uri}: go to the project's "
            "folder, or set MLFLOW_TRACKING_URI; `make track` writes the results on disk to MLflow"
        )
        raise UserError(msg)
    try:
        mlflow_store.check(at)
        with mlflow_store.explained(at):
            mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))
    except UserError:
        raise
    except Exception as error:  # from MLflow, a database, the network or an artifact store
        msg = (
            f"MLflow at {mlflow_store.public(at)} has no model {uri}: {mlflow_store.said(error)}; `make track` writes "
            "the results on disk to MLflow"
        )
        raise UserError(msg) from error
    found = sorted(folder.rglob(f"*{SUFFIX}"))
    if len(found) != 1:
        msg = f"{uri} contains {len(found)} files that end in {SUFFIX}; a model of this project has exactly one"
        raise UserError(msg)
    return found[0]
