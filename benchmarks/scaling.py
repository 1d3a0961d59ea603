"""(e) Growth of the time with one quantity, such as the batch size, while all other quantities keep their defaults.

The column "slope" is the slope of log(time) against log(quantity) between two rows. With slope 0, the time does not
grow. With slope 1, the time is proportional to the quantity.
"""

import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from aelab.models import checkpoint
from benchmarks.dag import PARALLEL, Clone
from benchmarks.loop import IMAGE, loop_steps, noise
from benchmarks.measure import Table, Value
from pipeline.common import params

STEPS = 10  # training steps of each measurement
TURNS = 3  # repetitions of each measurement
SCALES: dict[str, list[int]] = {  # quantity → its values
    "images in a batch": [1, 4, 16, 64, 256, 1024],
    "feature maps": [4, 16, 64, 128, 256],
    "numbers in the code": [2, 32, 256, 1024, 4096],
    "pixels along a side": [8, 28, 64, 128],
}


def run() -> list[Table]:
    """Return two tables: the time of a training step of the AE, and the time of whole runs of the pipeline."""
    return [_steps(), _dags()]


def _steps() -> Table:
    checked = params.load()
    torch.set_num_threads(checked.training.threads)
    arguments = checked.entry("ae").arguments()
    rows: list[list[Value]] = []
    for what, sizes in SCALES.items():
        previous: tuple[int, float] | None = None
        for size in sizes:
            batch = size if what == "images in a batch" else checked.training.batch_size
            image = (1, size, size) if what == "pixels along a side" else IMAGE
            network = arguments["network"] | {"width": size}
            changed: dict[str, Any] = {"feature maps": {"network": network}, "numbers in the code": {"code": size}}
            model = checkpoint.build("ae", image, arguments | changed.get(what, {}))
            stored = noise(STEPS * batch, image)
            loop_steps(model, stored, 3, batch)
            took = 1000 * batch / statistics.median(loop_steps(model, stored, STEPS, batch) for _ in range(TURNS))
            slope = math.log(took / previous[1]) / math.log(size / previous[0]) if previous else None
            parameters = sum(parameter.numel() for parameter in model.parameters())
            rows.append([what, float(size), float(parameters), took, 1000 * batch / took, slope])
            previous = size, took
    note = f"The AE's training loop on one thread, medians of {TURNS} repetitions of {STEPS} steps."
    columns = {"what": 0, "how much": 0, "parameters": 0, "ms per step": 2, "images per second": 0, "slope": 2}
    return Table("(e) Cost of a step against work", note, columns, rows)


def _dags() -> Table:
    every = list(params.load().variants)
    rows: list[list[Value]] = []
    for seeds, variants in ((1, 1), (4, 1), (1, len(every))):
        with tempfile.TemporaryDirectory() as folder:
            clone = Clone(Path(folder) / "clone", seeds=list(range(seeds)), **{"training.steps": 100})
            clone.keep_variants(every[:variants])
            rows.append([f"{seeds} seed(s), {variants} variant(s)", clone.time(*PARALLEL)])
    note = (
        "Seconds of a cold run of the DAG on the digits. Stages and seeds run side by side; a training has 100 steps."
    )
    return Table("(e) Cost of the DAG against seeds and variants", note, {"": 0, "seconds": 1}, rows)
