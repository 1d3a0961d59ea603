"""Scores of how strange an image is to a model, the higher the stranger, and how they stand among validation images.

    mse                squared error of the reconstruction
    neg_elbo, rate     −ELBO and its rate, where there is a bound; two z are drawn
    codebook_distance  ‖z_e − z_q‖², summed over the grid, where there is a codebook

The share of validation images that a score exceeds says what the score itself does not: whether it is high.
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

BOUND = {"neg_elbo", "rate"}
KEPT = 1001  # quantiles of the scores of validation images


def defined(model: Autoencoder) -> list[str]:
    """The scores that a model has of an image, without any other image."""
    return [name for name, capability in ANOMALY.items() if capability not in model.undefined]


def undefined(model: Autoencoder) -> dict[str, str]:
    """The others, each with the reason."""
    return {
        name: why for name, need in ANOMALY.items() for capability, why in model.undefined.items() if need == capability
    }


@torch.no_grad()
def scores(
    model: Autoencoder, x: Tensor, generator: torch.Generator, wanted: Collection[str] = tuple(ANOMALY)
) -> dict[str, Tensor]:
    """The scores of images x (B, C, H, W) on the model's device, B ≥ 1, each (B,); those of `wanted` that it defines.

    Args:
        model: in evaluation mode.
        x: floats in [0, 1].
        generator: of the z in the bound.
        wanted: names.
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
    """The scores of stored images, (N,) each on the CPU; those that are `known` are not computed again."""
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
    """−ELBO and its parts of each image in all batches."""
    images: dict[str, Tensor] = getattr(model.measure(lots, generator), "images", {})
    return images


def reference(found: Mapping[str, Tensor]) -> dict[str, Any]:
    """The scores of validation images as a small table: how many there are, and evenly spread ones in their order."""
    count = max(map(len, found.values()), default=0)
    order = {name: np.sort(values.numpy()) for name, values in found.items() if values.isfinite().all()}
    kept = evenly(count, min(count, KEPT))
    return {
        "images": count,
        "scores": {name: [float(f"{value:.6g}") for value in values[kept]] for name, values in order.items()},
    }


def percentile(values: Tensor, ordered: Sequence[float]) -> Tensor:
    """The share of the validation images, in percent, whose score is lower: (B,)."""
    among = torch.tensor(ordered, dtype=values.dtype)
    return 100 * torch.searchsorted(among, values.contiguous()) / len(among)
