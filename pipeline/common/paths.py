"""The paths of all files, relative to the repository's root."""

import os
from pathlib import Path

CLEAN = Path("data/clean")  # one folder for each split: train, validation, test
ANOMALIES = CLEAN / "test/anomalies.npy"  # exists only with `dataset.anomalies`
NOISY = Path("data/noisy")  # corrupted copies of validation and test images
MODELS = Path("models")
CLASSIFIER = Path("classifier")  # weights, features of the test images, metrics
EVALUATION = Path("evaluation")
PROVENANCE = Path("provenance")  # times, hardware and versions, which differ between runs with equal results
REPORTS = Path("reports")
FILE_LISTS = Path("file_lists")  # the files in each of the user's image folders
LOGS = Path("logs")  # the output of each stage's last run through `pipeline.runner.repro`

# Folders where stages and trainings write, or that hold their code. A user's image folder must be elsewhere.
WRITTEN = [
    Path("data"), MODELS, CLASSIFIER, EVALUATION, PROVENANCE, REPORTS, LOGS, FILE_LISTS,
    *map(Path, ("checkpoints", "mlruns", "pipeline", "sources", "src", "taste", ".dvc", ".git")),
]  # fmt: skip


def inputs(name: str) -> Path:
    """Return the folder with the training images that `inputs` names: "clean" or a corruption."""
    return Path("data") / name


def images(folder: Path, split: str) -> Path:
    """Return the file with the images of a split: uint8 (N, C, H, W)."""
    return folder / split / "images.npy"


def labels(split: str) -> Path:
    """Return the file with the labels of a split: (N,)."""
    return CLEAN / split / "labels.npy"


def factors(split: str) -> Path:
    """Return the file with the K known factors of each image in a split, (N, K). Only drawn data sets have factors."""
    return CLEAN / split / "factors.npy"


def noisy(corruption: str, split: str = "test") -> Path:
    """Return the file with the images of a split under a corruption."""
    return NOISY / split / f"{corruption}.npy"


def root() -> Path:
    """Return the repository's root. DVC runs queued experiments in another folder and names the root in DVC_ROOT."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def own(path: str) -> Path:
    """Return the full path for a user's path, which may be relative to the repository's root or begin with ~.

    An experiment reads the original folder, because DVC does not copy the user's images.
    """
    return root() / Path(path).expanduser()


def raw() -> Path:
    """Return the folder of downloaded files. No stage has it as an output; all runs and experiments share it."""
    return Path(os.path.relpath(root() / "data/raw"))


def checkpoints() -> Path:
    """Return the folder that holds a `TrainingFolder` for every training. No stage has it as an output.

    Machines that share the folder through $AELAB_CHECKPOINTS continue each other's trainings.
    """
    return Path(os.environ.get("AELAB_CHECKPOINTS") or root() / "checkpoints").resolve()


def curve(entry: str, seed: int) -> Path:
    """Return the file with the points of a training's curve, one JSON object per line."""
    return PROVENANCE / "train" / entry / f"seed{seed}.jsonl"


def training(entry: str) -> Path:
    """Return the file that says where and how an entry was trained, and the training's cost."""
    return PROVENANCE / "train" / entry / "training.json"
