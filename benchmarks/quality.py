"""(c) Quality after the same CPU time, for models with our defaults and with the defaults of the library Pythae.

Our training and Pythae's are two processes with one thread each, which run at the same time. For example,
`python -m benchmarks.quality ours vae 60` trains our VAE for 60 CPU seconds, and prints the result as JSON.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from aelab.core import tensors
from aelab.data import datasets
from aelab.data.pairs import Pairs
from aelab.ingest import downloads
from aelab.models import checkpoint
from aelab.models.prior import kl_to_standard_normal, reparameterise
from aelab.training.loop import train
from benchmarks.measure import Table, Value, quiet
from benchmarks.peer import trainer
from pipeline.common import params, paths

BUDGETS = (60.0, 180.0)  # CPU seconds of a training
MEASURES = {"ae": "MSE", "vae": "−ELBO (nats)"}
BATCH = 250  # test images in a batch
TRIAL = 800  # steps, about an epoch, of a trial training that measures the time of a step
MARGIN = 0.95  # planned time of the training, relative to the time budget


def mnist() -> datasets.Data:
    """Return MNIST with the pipeline's splits."""
    checked = params.load().dataset
    with quiet():
        return downloads.load("mnist", paths.raw(), validation=checked.validation, seed=checked.seed)


def ours(variant: str, seconds: float) -> dict[str, float]:
    """Train our model with its default parameters, for as many steps as fit into the CPU seconds.

    Return the time and the test metric.
    """
    checked, images = params.load(), mnist()
    entry, options = checked.entry(variant), checked.training
    pairs, held_out = (Pairs(split, split) for split in (images.train, images.validation))

    def fit(steps: int) -> tuple[Any, float]:
        torch.manual_seed(0)
        model = checkpoint.build(entry.model, images.image, entry.arguments())
        started = time.process_time()
        with quiet():
            train(model, pairs, held_out, options.override(entry.training, {"steps": steps}), seed=0, options=options)
        return model, time.process_time() - started

    fit(options.validations)
    fixed = fit(options.validations)[1]  # time for the validations, which does not depend on the number of steps
    a_step = (fit(options.validations + TRIAL)[1] - fixed) / TRIAL
    model, took = fit(int((seconds * MARGIN - fixed) / a_step))
    generator = torch.Generator().manual_seed(0)

    def measure(x: Tensor) -> Tensor:
        if variant == "ae":
            return F.mse_loss(model.reconstruct(x), x)
        distortion, rate = model.bound(x, x, generator)
        return (distortion + rate).mean()

    return {"seconds": took, "value": over(images.test, measure)}


def pythae(variant: str, *budgets: float) -> list[dict[str, float]]:
    """Train Pythae's model with its default networks and trainer.

    Return the time and the test metric after the first epoch past each time budget.
    """
    from pythae import models  # noqa: PLC0415 - most benchmarks run without Pythae

    images = mnist()
    size = {"input_dim": images.image, "latent_dim": params.load().entry(variant).arguments()["code"]}
    torch.manual_seed(0)
    model = (models.AE(models.AEConfig(**size)) if variant == "ae"
             else models.VAE(models.VAEConfig(**size, reconstruction_loss="bce")))  # fmt: skip

    def measure(x: Tensor) -> Tensor:
        encoded = model.encoder(x)
        if variant == "ae":
            return F.mse_loss(model.decoder(encoded.embedding).reconstruction, x)
        mean, log_variance = encoded.embedding, encoded.log_covariance
        output = model.decoder(reparameterise(mean, log_variance, torch.Generator().manual_seed(0))).reconstruction
        distortion = F.binary_cross_entropy(output, x, reduction="none").flatten(1).sum(1)
        return (distortion + kl_to_standard_normal(mean, log_variance)).mean()

    with quiet():
        made = trainer(model, tensors.as_float(images.train))
    results, took, epoch = [], 0.0, 0
    for budget in budgets:
        while took < budget:
            epoch += 1
            started = time.process_time()
            with quiet():
                made.train_step(epoch)
            took += time.process_time() - started
        model.eval()
        results.append({"seconds": took, "value": over(images.test, measure)})
        model.train()
    return results


@torch.no_grad()
def over(test: datasets.Bytes, measure: Callable[[Tensor], Tensor]) -> float:
    """Return the mean of `measure` over the test images."""
    values = [measure(tensors.as_float(x)) for x in torch.from_numpy(test).split(BATCH)]
    return float(torch.stack(values).double().mean())


def run() -> Table:
    """Train our models and Pythae's at the same time, and compare their test metrics for each time budget."""
    rows: list[list[Value]] = []
    for variant, name in MEASURES.items():
        theirs = _contestant("pythae", variant, *BUDGETS)
        mine = [_result(_contestant("ours", variant, budget))[0] for budget in BUDGETS]
        for budget, a, b in zip(BUDGETS, mine, _result(theirs), strict=True):
            rows.append([f"{variant}, {budget:.0f} s: {name}", a["value"], b["value"], a["seconds"], b["seconds"]])
    note = (
        "Values on MNIST's test images, lower is better. A training has one thread, for the time in the first column. "
        "Ours has the pipeline's default parameters, and as many steps as fit into the time. Pythae has its default "
        "networks (MLPs) and trainer (batches of 64, learning rate 0.0001), but our code size and, for the VAE, our "
        "Bernoulli likelihood. Pythae is measured after the first whole epoch that ends past the time."
    )
    columns = {"": 0, "ours": 5, "Pythae": 5, "seconds, ours": 0, "seconds, Pythae": 0}
    return Table("(c) Quality after the same time on the CPU", note, columns, rows)


def _contestant(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.quality", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603


def _result(contestant: subprocess.Popen[str]) -> list[dict[str, float]]:
    output, _ = contestant.communicate()
    if contestant.returncode:
        sys.exit(f"a contestant failed: {contestant.args!r}")
    result: list[dict[str, float]] = json.loads(output.splitlines()[-1])
    return result


def main(who: str, variant: str, budgets: list[float]) -> None:
    """Train our model or Pythae's in this process, and print the results as JSON."""
    torch.set_num_threads(1)
    print(json.dumps(pythae(variant, *budgets) if who == "pythae" else [ours(variant, each) for each in budgets]))


if __name__ == "__main__":
    typer.run(main)
