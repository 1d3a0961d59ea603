"""Anomaly scores: how strange an image is to a model. A higher score means a stranger image.

    mse                mean squared error of the reconstruction
    neg_elbo, rate     −ELBO and its rate term, for models that define −ELBO; means over two draws if z is random
    codebook_distance  ‖z_e − z_q‖² between the encoder's output z_e and its code z_q, summed over the grid of codes

The scale of a score depends on the model. To show whether a score is high, `percentile` returns the percentage of
validation images with a lower score.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aelab.core.arrays import Array
from aelab.core.tensors import BATCH, device_of
from aelab.data.datasets import evenly
from aelab.data.pairs import batches
from aelab.evaluation.image_quality import mse
from aelab.evaluation.metric_names import ANOMALY
from aelab.models.base import Autoencoder

BOUND = {"neg_elbo", "rate"}  # scores that `Autoencoder.measure` computes together
KEPT = 1001  # maximum number of values that `reference` keeps of each score


def defined(model: Autoencoder) -> list[str]:
    """Names of the anomaly scores that the model defines."""
    return [name for name, capability in ANOMALY.items() if capability not in model.undefined]


def undefined(model: Autoencoder) -> dict[str, str]:
    """Names of the anomaly scores that the model does not define, each with the reason."""
    return {
        name: why for name, need in ANOMALY.items() for capability, why in model.undefined.items() if need == capability
    }


@torch.no_grad()
def scores(
    model: Autoencoder, x: Tensor, generator: torch.Generator, wanted: Collection[str] = tuple(ANOMALY)
) -> dict[str, Tensor]:
    """Anomaly scores of each image in a batch.

    Args:
        model: the model, in evaluation mode.
        x: images (B, C, H, W) on the model's device, floats in [0, 1], B ≥ 1.
        generator: random generator for the samples z that −ELBO and its rate need.
        wanted: names of the scores to compute. Scores that the model does not define are left out.

    Returns:
        The scores by name, (B,) each.
    """
    names, found = [name for name in defined(model) if name in wanted], dict[str, Tensor]()
    with model.unchecked():
        if "mse" in names:
            found["mse"] = mse(model.reconstruct(x), x)
        if BOUND & set(names):
            found |= _bound(model, [x], generator)
        if "codebook_distance" in names:
            z_e, z_q = model.encode(x), model.code_of(x)
            found["codebook_distance"] = (z_e - z_q).square().flatten(1).sum(1)  # type: ignore[operator]
    return {name: found[name] for name in names}


@torch.no_grad()
def of_split(
    model: Autoencoder,
    images: Array,
    known: Mapping[str, Tensor] = MappingProxyType({}),
    *,
    batch_size: int = BATCH,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Anomaly scores of all images of a split.

    Args:
        model: the model, in evaluation mode.
        images: uint8 (N, C, H, W).
        known: scores that the caller has already computed, by name, (N,) each.
        batch_size: images per batch.
        seed: seed of the random generator for the samples z.

    Returns:
        All scores that the model defines, by name, (N,) each, on the CPU.
    """
    names, device = defined(model), device_of(model)
    missing = {name for name in names if name not in known}
    found, generator = dict(known), torch.Generator(device).manual_seed(seed)
    if BOUND & missing:
        with model.unchecked():
            found |= _bound(model, batches(images, batch_size, device), generator)
    if others := missing - BOUND:
        parts = [scores(model, x, generator, others) for x in batches(images, batch_size, device)]
        found |= {name: torch.cat([part[name] for part in parts]) for name in others}
    return {name: found[name].cpu() for name in names}


def _bound(model: Autoencoder, lots: Iterable[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """−ELBO, rate and distortion of every image in the batches `lots`, by name, (N,) each."""
    images: dict[str, Tensor] = getattr(model.measure(lots, generator), "images", {})
    return images


def reference(found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Summarise the scores of the validation images, for a later comparison with new images by `percentile`.

    Args:
        found: scores of the validation images by name, (N,) each.

    Returns:
        A mapping. "images" is the number N of validation images. "scores" maps the name of each score to its sorted
        values. If N is larger than `KEPT`, only `KEPT` evenly spread values remain. A score is left out if any of its
        values is infinite or NaN.
    """
    count = max(map(len, found.values()), default=0)
    order = {name: np.sort(values.numpy()) for name, values in found.items() if values.isfinite().all()}
    kept = evenly(count, min(count, KEPT))
    return {
        "images": count,
        "scores": {name: [float(f"{value:.6g}") for value in values[kept]] for name, values in order.items()},
    }


def percentile(values: Tensor, ordered: Sequence[float]) -> Tensor:
    """For each image, the percentage of validation images that have a lower score.

    Args:
        values: scores of images, (B,).
        ordered: values of the same score for the validation images, ascending, as in the result of `reference`.

    Returns:
        Percentages, (B,).
    """
    among = torch.tensor(ordered, dtype=values.dtype)
    return 100 * torch.searchsorted(among, values.contiguous()) / len(among)
