"""What a frozen code says about the classes of images, which the autoencoder has not been told.

    linear probe        p(y|z) = softmax(W·(z − μ)/σ + b), learned from the codes of training images
    nearest neighbours  the class that most of the k nearest codes of training images have

Alain & Bengio 2017; Cover & Hart 1967. The probe asks whether hyperplanes part the classes, the neighbours whether the
codes of one class lie together; neither changes the autoencoder.
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from aelab.core.progress import counted
from aelab.core.tensors import BATCH, as_float, device_of
from aelab.data.pairs import Pairs
from aelab.evaluation.metric_names import REPRESENTATION
from aelab.models.base import Autoencoder
from aelab.models.latent import flatten
from aelab.models.statistics import Mean

Rule: TypeAlias = Callable[[Tensor], Tensor]  # from codes (B, d) to classes (B,)

NUMBERS = 2**24  # in all codes that are learned from, at most
INVERSE_PENALTIES = (0.01, 0.1, 1.0)  # C: the loss is the sum of −log p(y|z) over the images + ‖W‖²/2C
ITERATIONS = 10_000  # many more than standardised codes take
NEIGHBOURS = 5


@torch.no_grad()
def accuracies(
    model: Autoencoder, train: Pairs, validation: Pairs, test: Pairs, *, batch_size: int = BATCH
) -> dict[str, float]:
    """Test accuracy of both in percent; NaN where a code is not finite, or all that is learned from is of one class.

    Args:
        model: in evaluation mode, on any device.
        train: images uint8 (N, C, H, W) and their classes (N,) int64, to learn from; where codes are large, fewer.
        validation: likewise, to pick the probe's penalty by.
        test: likewise.
        batch_size: images per batch.
    """
    size = vectors(model, next(train.split(1))[0]).shape[1]
    train = train.thinned(max(1, NUMBERS // size))
    z = torch.cat([vectors(model, x) for x, _ in train.split(batch_size)])
    y = torch.from_numpy(train.targets)
    if not z.isfinite().all() or len(y.unique()) == 1:
        return dict.fromkeys(REPRESENTATION, math.nan)
    probes = linear_probes(z, y)
    held_out = shares(model, validation, probes, batch_size)
    picked = probes[max(held_out, key=held_out.__getitem__)]
    return shares(model, test, {"probe_accuracy": picked, "knn_accuracy": nearest_neighbours(z, y)}, batch_size)


def vectors(model: Autoencoder, stored: Tensor) -> Tensor:
    """The codes of stored images, all numbers of one in a row: (B, C, H, W) → (B, d)."""
    return flatten(model.code_of(as_float(stored.to(device_of(model)))))


def linear_probes(z: Tensor, y: Tensor) -> dict[str, Rule]:
    """Linear probes learned from codes z (N, d), standardised, and their classes y (N,), by their inverse penalty."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow to import
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    deviation, mean = torch.std_mean(z, 0)
    deviation = torch.where(deviation > 0, deviation, 1.0)

    def rule(probe: LogisticRegression) -> Rule:
        return lambda codes: torch.from_numpy(probe.predict(((codes - mean) / deviation).cpu().numpy()))

    probe, rules = LogisticRegression(max_iter=ITERATIONS, warm_start=True), {}
    x = ((z - mean) / deviation).cpu().numpy()
    with threadpool_limits(1):  # sums do not depend on how many cores there are
        for inverse_penalty in counted(INVERSE_PENALTIES):  # each begins where the one before has ended
            probe.set_params(C=inverse_penalty).fit(x, y.numpy())
            rules[str(inverse_penalty)] = rule(copy.deepcopy(probe))
    return rules


def nearest_neighbours(z: Tensor, y: Tensor) -> Rule:
    """The vote of the nearest codes among z (N, d) with classes y (N,); of classes with equal votes the first."""
    classes = y.unique()

    def rule(codes: Tensor) -> Tensor:
        near = y[torch.cdist(codes, z).topk(min(NEIGHBOURS, len(z)), largest=False).indices.cpu()]
        return classes[(near.unsqueeze(2) == classes).sum(1).argmax(1)]

    return rule


def shares(model: Autoencoder, images: Pairs, rules: Mapping[str, Rule], batch_size: int) -> dict[str, float]:
    """The share of `images`, in percent, whose class each of the rules finds from their codes."""
    right = {name: Mean() for name in rules}
    for x, y in images.split(batch_size):
        codes = vectors(model, x)
        for name, rule in rules.items():
            right[name].add(100.0 * (rule(codes) == y))
    return {name: mean.value for name, mean in right.items()}
