"""Paths of the pipeline's files and folders, relative to the root of the repository."""

import os
from pathlib import Path

CLEAN = Path("data/clean")  # clean images and labels, one folder for each split: train, validation, test
ANOMALIES = CLEAN / "test/anomalies.npy"  # exists only with `dataset.anomalies`
NOISY = Path("data/noisy")  # corrupted copies of the validation and test images
MODELS = Path("models")  # trained weights
CLASSIFIER = Path("classifier")  # the classifier's weights, its features of the test images, its metrics
EVALUATION = Path("evaluation")  # metrics and figures of the trained models
PROVENANCE = Path("provenance")  # times, hardware and versions, which differ between runs with equal results
REPORTS = Path("reports")
FILE_LISTS = Path("file_lists")  # for each of the user's image folders, a list of the files
LOGS = Path("logs")  # for each stage, the printed text of its last run by `pipeline.runner.repro`

# Folders to which the pipeline writes, or that hold its code. The user's image folders must be elsewhere.
WRITTEN = [
    Path("data"), MODELS, CLASSIFIER, EVALUATION, PROVENANCE, REPORTS, LOGS, FILE_LISTS,
    *map(Path, ("checkpoints", "mlruns", "pipeline", "sources", "src", "taste", ".dvc", ".git")),
]  # fmt: skip


def inputs(name: str) -> Path:
    """Return the folder of training images. `name` is "clean", or the name of a corruption in `corruption.train`."""
    return Path("data") / name


def images(folder: Path, split: str) -> Path:
    """Return the path of the file with the images of a split, uint8 (N, C, H, W)."""
    return folder / split / "images.npy"


def labels(split: str) -> Path:
    """Return the path of the file with the class labels of a split, (N,)."""
    return CLEAN / split / "labels.npy"


def factors(split: str) -> Path:
    """Return the path of the file with the K known factors of each image in a split, (N, K).

    Only data sets whose images are drawn by a program, such as shapes, have known factors.
    """
    return CLEAN / split / "factors.npy"


def noisy(corruption: str, split: str = "test") -> Path:
    """Return the path of the file with the corrupted images of a split. `corruption` is a name like gaussian-0.2."""
    return NOISY / split / f"{corruption}.npy"


def root() -> Path:
    """Return the root of the user's repository.

    DVC runs queued experiments in a copy of the repository, and sets DVC_ROOT to the root of the original.
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def own(path: str) -> Path:
    """Return the full path for a path in `params.yaml`, which may be relative to `root()` or begin with ~.

    DVC does not copy the user's images for an experiment, so an experiment reads the images of the original repository.
    """
    return root() / Path(path).expanduser()


def raw() -> Path:
    """Return the folder of downloaded files, which all runs and experiments share.

    The folder is not an output of a stage, so DVC neither deletes nor copies the folder.
    """
    return Path(os.path.relpath(root() / "data/raw"))


def checkpoints() -> Path:
    """Return the folder that holds one `TrainingFolder` with checkpoints for every training.

    The folder is not an output of a stage, so DVC does not delete the checkpoints. If $AELAB_CHECKPOINTS names a folder
    that several machines share, each machine continues trainings that another machine began.
    """
    return Path(os.environ.get("AELAB_CHECKPOINTS") or root() / "checkpoints").resolve()


def curve(entry: str, seed: int) -> Path:
    """Return the path of the learning curve of one training. Each line of the file is a point, as a JSON object."""
    return PROVENANCE / "train" / entry / f"seed{seed}.jsonl"


def training(entry: str) -> Path:
    """Return the path of the file with the hardware, the software versions and the cost of an entry's training."""
    return PROVENANCE / "train" / entry / "training.json"
