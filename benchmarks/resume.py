"""(g) Cost of checkpoints and of live curves in MLflow, measured with three trainings.

The first training writes no files. The second training writes its loss curve, and checkpoints at the default interval.
The third training writes the same files, and another process shows the curve in MLflow.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from aelab.core import disk
from aelab.core.settings import Budget, TrainingOptions
from aelab.models import checkpoint
from aelab.training.loop import Session, train
from aelab.training.snapshots import SECONDS, Snapshots
from benchmarks.loop import IMAGE, noise
from benchmarks.measure import Table, Value, quiet, ratio, seconds, take_turns
from pipeline.common import params
from pipeline.training import training_folder
from pipeline.training.training_folder import CurveLog, TrainingFolder

STEPS = 900  # long enough for several checkpoints
TURNS = 3  # repetitions of each training


def run() -> Table:
    """Train the default AE in the three ways, alternately."""
    checked = params.load()
    torch.set_num_threads(checked.training.threads)
    options = TrainingOptions(mode="eager", points=100, validations=10)
    budget = Budget(steps=STEPS, batch_size=checked.training.batch_size, learning_rate=1e-4)
    images, held = noise(6400), noise(200)

    def trained(folder: Path | None) -> float:
        model = checkpoint.build("ae", IMAGE, checked.entry("ae").arguments(), 0)
        keeper = None if folder is None else Snapshots(folder)
        with quiet(), contextlib.nullcontext() if folder is None else CurveLog(TrainingFolder(folder).curve) as log:
            follow = (lambda *_: None) if log is None else lambda phase, point: log.write({"phase": phase} | point)
            return seconds(
                lambda: train(
                    model, images, held, budget, seed=0, options=options, session=Session(follow=follow, store=keeper)
                )
            )

    def kept(*, followed: bool) -> float:
        with tempfile.TemporaryDirectory() as root:
            slot = TrainingFolder(Path(root) / "checkpoints" / "ae-seed0-benchmark")
            about = {
                "entry": "ae", "seed": 0, "fingerprint": "benchmark", "device": "cpu", "hardware": "", "precision": "",
                "mode": "eager", "begun": [time.time()], "parameters": training_folder.raw_parameters("ae"),
            }  # fmt: skip
            disk.write_atomically(slot.about, disk.as_json(about))
            with slot.held(lambda: False), _follower(root) if followed else contextlib.nullcontext():
                return trained(slot.folder)

    plain, alone, watched = take_turns(
        [lambda: trained(None), lambda: kept(followed=False), lambda: kept(followed=True)], TURNS
    )
    rows: list[list[Value]] = [["no checkpoints, no curve", min(plain), None, None]]
    for name, took in (("checkpoints and curve", alone), ("checkpoints, and the curve shown in MLflow", watched)):
        share, spread = ratio(took, plain)
        rows.append([name, min(took), share, spread])
    note = (
        f"Seconds of {STEPS} steps of the AE, in the shortest of {TURNS} repetitions. Checkpoints are {SECONDS:g} s "
        "apart."
    )
    columns = {"training": 0, "seconds": 2, "÷ first row": 3, "least to greatest": 0}
    return Table("(g) Cost of checkpoints and live curves", note, columns, rows)


@contextmanager
def _follower(root: str) -> Iterator[None]:
    """Run the process that shows curves in MLflow. The block begins when the process is ready."""
    database = Path(root) / "mlflow.db"
    environment = os.environ | {"DVC_ROOT": root, "MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    with subprocess.Popen([sys.executable, "-m", "pipeline.reporting.track", "--follow"], env=environment) as process:
        while not database.exists():
            time.sleep(0.1)
        time.sleep(15)  # time for the process's imports and for its work on the new database
        yield
        process.terminate()
