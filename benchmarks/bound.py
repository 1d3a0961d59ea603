"""(i) Time and memory of the importance-weighted bound, for 10,000 images with k = 5,000 samples of the code each.

The time is proportional to the number of images and to k, so the benchmark measures a few images only. The memory does
not depend on k, because the decoder gets a limited number of samples at once. The networks have random weights: the MLP
of Burda et al. 2016, the network of the default VAE, and the network in recipes/ours-82.yaml.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from aelab.core import devices
from aelab.evaluation import bounds
from aelab.models import checkpoint
from benchmarks.measure import Table, Value, seconds

IMAGE = (1, 28, 28)
PATCHES = {"name": "patches", "width": 64, "downsampling": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "784-200-200-50": (
        "vae",
        {"network": {"name": "mlp", "hidden": [200, 200], "activation": "tanh"}, "code": 50, "beta": 1.0},
    ),
    "patches, code 32": ("vae", {"network": PATCHES, "code": 32, "beta": 1.0}),
    "ladder, 4 layers": (
        "ladder",
        {"network": PATCHES | {"width": 32}, "width": 32, "code": 16, "layers": 4, "channels": 4},
    ),
}
SAMPLES = (50, 5_000)  # values of k
DECODED = 200_000  # samples to decode in each measurement: images · k
ROWS = 200  # samples that are decoded at once


def run() -> Table:
    """Measure every network with two values of k. Each measurement has its own process, with one thread."""
    rows: list[list[Value]] = []
    for name in MODELS:
        row: list[Value] = [name]
        for samples in SAMPLES:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                took, memory = pool.submit(measure, name, samples).result()
            row += [DECODED / took, memory]
        rows.append([*row, 10_000 * SAMPLES[-1] / float(row[-2] or 1) / 60])
    columns = {"network": 0}
    for samples in SAMPLES:
        columns |= {f"samples/s, k = {samples:,}": 0, f"peak MiB, k = {samples:,}": 0}
    note = (
        f"Speed of the bound from k samples of each image, on one thread. A measurement takes {DECODED:,} samples, "
        f"{ROWS:,} at a time."
    )
    return Table("(i) The importance-weighted bound", note, columns | {"10,000 images at k = 5,000 (min)": 1}, rows)


def measure(name: str, samples: int) -> tuple[float, float]:
    """Return the seconds for `DECODED` samples at k = `samples`, and the peak memory of the process in MiB."""
    device = devices.prepare("cpu", threads=1)
    model_name, arguments = MODELS[name]
    model = checkpoint.build(model_name, IMAGE, arguments | {"likelihood": "bernoulli"}, 0).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.bernoulli(torch.full((DECODED // samples, *IMAGE), 0.13), generator=generator)
    bounds.importance_weighted(model, [x[:2]], samples, generator, ROWS)
    took = seconds(lambda: bounds.importance_weighted(model, [x], samples, generator, ROWS))
    return took, devices.peak_memory(device)
