"""(h) Codes in use after 1,000 steps on Fashion-MNIST, for seven quantisers with 256 codes and three seeds each.

The README of the library vector-quantize-pytorch publishes figures for a smaller network with 256 codes after 1,000
steps. There, a plain straight-through gradient uses about a quarter of the codes, and the rotation trick all codes.
"""

import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, cast

import torch

from aelab.core import devices, tensors
from aelab.data import datasets
from aelab.data.pairs import Pairs, batches
from aelab.evaluation import image_quality
from aelab.ingest import downloads
from aelab.models import checkpoint
from aelab.models.statistics import Mean, perplexity
from aelab.training.loop import fit
from aelab.variants.vqvae import VQVAE
from benchmarks.measure import Table, Value, cores, quiet
from pipeline.common import params, paths

STEPS = 1000
SEEDS = (0, 1, 2)
VECTORS = {"codes": 256, "dimensions": 16}
QUANTIZERS: dict[str, dict[str, Any]] = {
    "gradient": {"name": "codebook", "restarts": False},
    "gradient, restarts": {"name": "codebook"},
    "gradient, rotation": {"name": "codebook", "restarts": False, "gradient": "rotation"},
    "gradient, rotation, restarts": {"name": "codebook", "gradient": "rotation"},
    "moving averages": {"name": "ema", "restarts": False},
    "moving averages, restarts": {"name": "ema"},
    "finite scalars, 4·4·4·4": {"name": "fsq", "levels": [4, 4, 4, 4], "normalise": False},
}
METRICS = {"active": 1, "perplexity": 1, "mse": 5, "psnr": 2}  # metric → digits after the decimal point


def run() -> Table:
    """Train every quantiser with every seed. Each core runs one training at a time, on one thread."""
    load()
    jobs = [(name, seed) for seed in SEEDS for name in QUANTIZERS]
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        measured = dict(zip(jobs, pool.map(train, *zip(*jobs, strict=True)), strict=True))
    rows: list[list[Value]] = []
    for name in QUANTIZERS:
        row: list[Value] = [name]
        for metric in METRICS:
            values = [measured[name, seed][metric] for seed in SEEDS]
            row += [statistics.fmean(values), statistics.stdev(values)]
        rows.append([*row, min(measured[name, seed]["active"] for seed in SEEDS)])
    columns = {"codes": 0}
    for title, digits in zip(("active (%)", "perplexity", "MSE", "PSNR (dB)"), METRICS.values(), strict=True):
        columns |= {title: digits, f"± {title.split()[0]}": digits}
    note = (
        f"Mean and standard deviation over {len(SEEDS)} seeds on the test images of Fashion-MNIST, after {STEPS:,} "
        "steps of the first phase of the VQ-VAE in params.yaml. Active codes were used at least once. Least active: "
        "the minimum over the seeds."
    )
    return Table("(h) Codes in use", note, columns | {"least active (%)": 1}, rows)


def load() -> datasets.Data:
    """Return Fashion-MNIST with the pipeline's splits."""
    checked = params.load().dataset
    with quiet():
        return downloads.load("fashion-mnist", paths.raw(), validation=checked.validation, seed=checked.seed)


@torch.no_grad()
def train(name: str, seed: int) -> dict[str, float]:
    """Train the VQ-VAE with one quantiser and seed, without the prior; return the metrics of the test images."""
    devices.prepare("cpu", threads=1)
    checked, images = params.load(), load()
    entry, options = checked.entry("vqvae"), checked.training
    chosen = QUANTIZERS[name]
    arguments = entry.arguments() | {"quantizer": chosen if chosen["name"] == "fsq" else chosen | VECTORS}
    model = cast("VQVAE", checkpoint.build(entry.model, images.image, arguments, seed))
    pairs, held_out = (Pairs(split, split) for split in (images.train, images.validation))
    model.start_from(tensors.as_float(pairs.thinned(1000).targets))
    budget = options.override(entry.training, {"steps": STEPS})
    with quiet(), torch.enable_grad():
        fit(model, pairs, held_out.thinned(options.validation_images), budget, seed=seed, options=options)
    counts, mse, psnr = torch.zeros(model.quantizer.entries), Mean(), Mean()
    for x in batches(images.test, tensors.BATCH, counts.device):
        indices = model.indices(x)
        output = model.decode_indices(indices)
        counts += model.quantizer.counts(indices)
        mse.add(image_quality.mse(output, x))
        psnr.add(image_quality.psnr(output, x))
    active = 100 * (counts > 0).float().mean().item()
    values = {"active": active, "perplexity": perplexity(counts), "mse": mse.value, "psnr": psnr.value}
    print(name, seed, values, file=sys.stderr, flush=True)
    return values


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(run().markdown())
