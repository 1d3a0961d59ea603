"""evaluate@variant: measure every seed of one variant on the test split and draw its figures."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoencoders import checkpoint, devices, evaluation, figures, variants
from autoencoders.base import Autoencoder
from autoencoders.training import as_float
from pipeline import paths, stage
from pipeline.params import Params


def main(variant: str) -> None:
    """Evaluate VARIANT, an entry of `variants` in params.yaml; the name of its stage, evaluate@VARIANT, does too."""
    variant = variant.rpartition("@")[2]

    def work(params: Params, provenance: stage.Provenance) -> None:
        device = devices.prepare(params.training.device, params.training.threads)
        provenance |= {"device": device.type, "hardware": devices.describe(device)}
        results = stage.for_each_seed(evaluate, params, variant)
        stage.write_json(paths.EVALUATION / variant / "metrics.json", results)
        _write_means(variant, results)

    stage.run(work, paths.PROVENANCE / "evaluate" / f"{variant}.json")


@dataclass(frozen=True)
class Images:
    """What a model is evaluated on; all on its device, as stored."""

    train: Tensor
    test: Tensor
    noisy: dict[str, Tensor]  # by corruption, each like `test`
    shown: Tensor  # indices of the test images that the figures show


def _load_images(shown: int, device: torch.device) -> Images:
    train = load_file(paths.CLEAN / "train.safetensors")
    test = load_file(paths.CLEAN / "test.safetensors")
    count = len(test["images"])
    return Images(
        train=train["images"][:count].to(device),
        test=test["images"].to(device),
        noisy={name: images.to(device) for name, images in load_file(paths.NOISY / "test.safetensors").items()},
        shown=_of_each_class(test["labels"], shown).to(device),
    )


def _of_each_class(labels: Tensor, count: int) -> Tensor:
    """Indices of `count` images in the order of their classes: the first of each class, then the second, …"""
    seen: dict[int, int] = {}
    order = []
    for index, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        order.append((seen[label], label, index))
    return torch.tensor([index for _, _, index in sorted(order)[:count]])


def evaluate(params: Params, variant: str, seed: int) -> dict[str, Any]:
    """Metrics and figures of one seed; for a diverged one nothing but the fact."""
    about = (variants.find(variant).__doc__ or "").strip()
    outcome = stage.read_json(paths.MODELS / variant / f"seed{seed}.json")
    diverged = [
        f"{phase} diverged in epoch {end['diverged_in_epoch']}"
        for phase, end in outcome.items()
        if end["diverged_in_epoch"]
    ]
    if diverged:
        return {"status": diverged[0], "about": about, "metrics": {}, "undefined": {}}
    device = devices.prepare(params.training.device, params.training.threads)
    images = _load_images(params.evaluation.images, device)
    model = checkpoint.load(paths.MODELS / variant / f"seed{seed}.safetensors", device)
    settings = {"batch_size": params.evaluation.batch_size, "seed": params.evaluation.seed}
    values = evaluation.evaluate(model, images.test, images.noisy, images.train, **settings)
    infinite = {name: f"it is {value}" for name, value in values.items() if not math.isfinite(value)}
    values = {name: value for name, value in values.items() if name not in infinite}
    values["parameters"] = float(sum(parameter.numel() for parameter in model.parameters()))
    history = paths.MODELS / variant / f"seed{seed}.csv"
    best = {phase: end["best_epoch"] for phase, end in outcome.items()}
    _draw(params, model, images, best, history=history, folder=paths.EVALUATION / variant / f"seed{seed}")
    return {"status": "finished", "about": about, "metrics": values, "undefined": dict(model.undefined) | infinite}


def _draw(
    params: Params, model: Autoencoder, images: Images, best: dict[str, int], *, history: Path, folder: Path
) -> None:
    """The figures of one seed, and the images that the report sets side by side for all variants."""
    settings = {"batch_size": params.evaluation.batch_size, "seed": params.evaluation.seed}
    x = as_float(images.test[images.shown])
    noisy = {name: as_float(copies[images.shown]) for name, copies in images.noisy.items()}
    for name, rows in evaluation.pictures(model, x, noisy, images.test, **settings).items():
        figures.images([(label, row.cpu().numpy()) for label, row in rows], folder / f"{name}.png")
    if "code_usage" not in model.undefined:
        batches = evaluation.batches(images.test, params.evaluation.batch_size)
        figures.code_usage(model.code_counts(batches).cpu().numpy(), folder / "code_usage.png")
    figures.learning_curves(stage.read_history(history), best, folder / "learning_curves.png")
    corrupted = noisy[params.corruption.train.name]
    with torch.no_grad():
        examples = {"original": x, "reconstruction": model.reconstruct(x)}
        examples |= {"corrupted": corrupted, "restored": model.reconstruct(corrupted)}
    save_file({name: rows.contiguous() for name, rows in examples.items()}, folder / "examples.safetensors")


def _write_means(variant: str, results: dict[int, dict[str, Any]]) -> None:
    """What `dvc metrics` and `dvc plots` show: means over the seeds that finished."""
    finished = {seed: result["metrics"] for seed, result in results.items() if result["metrics"]}
    measured = dict.fromkeys(name for metrics in finished.values() for name in metrics)
    means = {name: _mean(finished.values(), name) for name in measured}
    stage.write_json(paths.REPORTS / "metrics" / f"{variant}.json", means)
    histories = [stage.read_history(paths.MODELS / variant / f"seed{seed}.csv") for seed in finished or results]
    first_phase = histories[0][0]["phase"]
    epochs: dict[int, list[dict[str, Any]]] = {}
    for row in itertools.chain(*histories):
        if row["phase"] == first_phase:
            epochs.setdefault(row["epoch"], []).append(row)
    losses = ("train_loss", "validation_loss")
    curves = [{"epoch": epoch} | {name: _mean(rows, name) for name in losses} for epoch, rows in epochs.items()]
    stage.write_csv(curves, paths.REPORTS / "curves" / f"{variant}.csv")


def _mean(rows: Iterable[Mapping[str, float]], name: str) -> float:
    """The mean of one value over the rows that have it."""
    return statistics.fmean(row[name] for row in rows if name in row)


if __name__ == "__main__":
    typer.run(main)
