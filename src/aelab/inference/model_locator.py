"""Where a trained model is taken from: a file, a folder of seeds, a revision that DVC knows, or MLflow.

    models/vae/seed1.safetensors           a file
    models/vae                             a folder: its first seed
    HEAD~1:models/vae/seed0.safetensors    either of them as of a Git revision, tag or DVC experiment
    models:/mnist-denoising@champion       what MLflow has registered under a name; models:/name/2 is a version of it
    runs:/<run id>/mnist-vae-seed0         the model of a run in MLflow

Whatever the place, only the weights are read, which carry their own hash: no code and no pickle that lies beside them.
And with them the table of the scores that their model has given to validation images, where the evaluation has left it.
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
HELP = "`dvc pull` brings trained ones, `make repro` trains them"


class Located(NamedTuple):
    """A model as a file."""

    path: Path
    name: str  # for a message
    scores: Path  # of validation images; there or not

    def validation(self) -> dict[str, Any]:
        """How these weights score validation images, as `anomaly.reference` has it; nothing where that is not known."""
        if not self.scores.exists():
            return {}
        found: dict[str, Any] = json.loads(self.scores.read_text(encoding="utf-8"))
        same = found.pop("weights", "") == hashlib.sha256(self.path.read_bytes()).hexdigest()
        return found if same else {}


@contextmanager
def located(model: str) -> Iterator[Located]:
    """The weights of `model`, written as above, as a file for as long as the block.

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
    """Where the evaluation of models/ENTRY/seedK.safetensors has left the scores of validation images."""
    entry = weights.absolute().parent
    return entry.parent.parent / "evaluation" / entry.name / weights.stem / VALIDATION


def _found(folder: Path) -> Path:
    """The scores among the artifacts of a model."""
    return next(folder.rglob(VALIDATION), folder / VALIDATION)


def _first(names: Iterable[str], folder: str) -> str:
    """The weights of the first seed in a folder."""
    found = [name for name in names if name.endswith(SUFFIX)]
    if not found:
        msg = f"the folder {folder} holds no model, a file that ends in {SUFFIX}; {HELP}"
        raise UserError(msg)
    return min(found, key=lambda name: (len(name), name))  # seed2 before seed10


def _from_dvc(path: str, revision: str, folder: Path) -> Located:
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
        scores = _scores(Path("/") / inside).relative_to("/").as_posix()
        with suppress(DvcException, OSError):  # none were written, or they are not in the cache
            (folder / VALIDATION).write_bytes(there.read_bytes(scores))
    except (DvcException, SCMError, OSError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        msg = f"{path} cannot be had from the revision {revision!r}: {said}; `dvc fetch --all-commits` may bring it"
        raise UserError(msg) from error
    return Located(copy, f"{revision}:{inside}", folder / VALIDATION)


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
