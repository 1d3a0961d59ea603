"""Where everything lies, relative to the repository's root."""

import os
from pathlib import Path

CLEAN = Path("data/clean")  # train, validation, test
ANOMALIES = CLEAN / "test/anomalies.npy"  # images that are to be told from those of the test, where any are
NOISY = Path("data/noisy")  # corrupted copies of validation and test, to be measured on
MODELS = Path("models")
CLASSIFIER = Path("classifier")  # its weights, its features of the test images, its metrics
EVALUATION = Path("evaluation")
PROVENANCE = Path("provenance")  # what differs between equal runs: times, hardware, versions
REPORTS = Path("reports")
FILE_LISTS = Path("file_lists")  # what the user's folders of images hold
LOGS = Path("logs")  # what each stage said when it last ran through `pipeline.runner.repro`

# Where stages and trainings write, or what they are made of: no place for a user's images.
WRITTEN = [
    Path("data"), MODELS, CLASSIFIER, EVALUATION, PROVENANCE, REPORTS, LOGS, FILE_LISTS,
    *map(Path, ("checkpoints", "mlruns", "pipeline", "sources", "src", "taste", ".dvc", ".git")),
]  # fmt: skip


def inputs(name: str) -> Path:
    """What an entry with these `inputs` sees: "clean", or copies of train and validation under a named corruption."""
    return Path("data") / name


def images(folder: Path, split: str) -> Path:
    """The images of a split: uint8 (N, C, H, W)."""
    return folder / split / "images.npy"


def labels(split: str) -> Path:
    """The labels of a split: (N,)."""
    return CLEAN / split / "labels.npy"


def factors(split: str) -> Path:
    """What the images of a split were drawn from, (N, K); only data sets of which that is known have it."""
    return CLEAN / split / "factors.npy"


def noisy(corruption: str, split: str = "test") -> Path:
    """The images of a split under a corruption."""
    return NOISY / split / f"{corruption}.npy"


def root() -> Path:
    """The repository's root; DVC runs queued experiments in a folder of their own and names the root in DVC_ROOT."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def own(path: str) -> Path:
    """A folder of the user's, relative to the repository's root or their home; it does not travel into the copies that
    experiments run in.
    """
    return root() / Path(path).expanduser()


def raw() -> Path:
    """Downloaded files, kept between runs and shared by all experiments; no output of any stage."""
    return Path(os.path.relpath(root() / "data/raw"))


def checkpoints() -> Path:
    """A folder for every training, with its curve while it runs: see `TrainingFolder`. No output of any stage; machines
    that share it, as $AELAB_CHECKPOINTS, go on with each other's trainings.
    """
    return Path(os.environ.get("AELAB_CHECKPOINTS") or root() / "checkpoints").resolve()


def curve(entry: str, seed: int) -> Path:
    """The points of a training's curve, one JSON object on each line."""
    return PROVENANCE / "train" / entry / f"seed{seed}.jsonl"


def training(entry: str) -> Path:
    """Where, how and at what cost an entry was trained."""
    return PROVENANCE / "train" / entry / "training.json"
