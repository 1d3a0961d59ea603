"""Probes: classifiers of codes. The accuracy of a probe shows how much the codes say about the classes of images.

    linear probe        p(y|z) = softmax(W·(z − μ)/σ + b), learned from the codes of training images
    nearest neighbours  the most frequent class among the k nearest codes of training images

The autoencoder was trained without classes, and stays unchanged while a probe learns. The linear probe is accurate if
hyperplanes separate the codes of different classes. The nearest neighbours are accurate if codes of the same class are
close together.

Source: linear probe: Alain & Bengio 2017. Nearest neighbours: Cover & Hart 1967.
"""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from aelab.core.progress import counted
from aelab.core.tensors import BATCH, as_float, device_of
from aelab.data.pairs import Pairs
from aelab.evaluation.metric_names import REPRESENTATION
from aelab.models.base import Autoencoder
from aelab.models.latent import flatten
from aelab.models.statistics import Mean, Measured

Rule: TypeAlias = Callable[[Tensor], Tensor]  # a classifier: codes (B, d) → classes (B,)

NUMBERS = 2**24  # Maximum number of values in all training codes together, N·d.
INVERSE_PENALTIES = (0.01, 0.1, 1.0)  # Candidates for the C of `logistic_regression`.
SEARCH = {  # Options of L-BFGS, as in scikit-learn. The search ends if no derivative of the mean loss exceeds `gtol`.
    "maxiter": 10_000,  # Maximum number of steps. Standardised codes need far fewer.
    "maxls": 50,
    "gtol": 1e-4,
    "ftol": 64 * float(np.finfo(np.float64).eps),
}
NEIGHBOURS = 5


@torch.no_grad()
def accuracies(
    model: Autoencoder, train: Pairs, validation: Pairs, test: Pairs, *, batch_size: int = BATCH
) -> Measured:
    """Test accuracy of the linear probe and of the nearest neighbours.

    Args:
        model: in evaluation mode, on any device.
        train: training images, uint8 (N, C, H, W), with their classes, int64 (N,). If codes are large, only some
            evenly spread images are used.
        validation: validation images with their classes. Of several linear probes with different penalties, the
            probe with the highest accuracy on these images is tested.
        test: test images with their classes.
        batch_size: images per batch.

    Returns:
        "probe_accuracy" and "knn_accuracy" in percent. The value of a single image is 0 or 100. Both accuracies are NaN
        if a training code is not finite, or if all training images have the same class.
    """
    size = vectors(model, next(train.split(1))[0]).shape[1]
    train = train.thinned(max(1, NUMBERS // size))
    z = torch.cat([vectors(model, x) for x, _ in train.split(batch_size)])
    y = torch.from_numpy(train.targets)
    if not z.isfinite().all() or len(y.unique()) == 1:
        return Measured(dict.fromkeys(REPRESENTATION, math.nan))
    probes = linear_probes(z, y)
    held_out = shares(model, validation, probes, batch_size)
    picked = probes[max(held_out, key=held_out.__getitem__)]
    return shares(model, test, {"probe_accuracy": picked, "knn_accuracy": nearest_neighbours(z, y)}, batch_size)


def vectors(model: Autoencoder, stored: Tensor) -> Tensor:
    """Codes of stored images as vectors: uint8 (B, C, H, W) → (B, d)."""
    return flatten(model.code_of(as_float(stored.to(device_of(model)))))


def linear_probes(z: Tensor, y: Tensor) -> dict[str, Rule]:
    """Fit a linear probe for each of the `INVERSE_PENALTIES`, from codes z (N, d) and their classes y (N,)."""
    deviation, mean = torch.std_mean(z, 0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    classes, targets = y.to(z.device).unique(return_inverse=True)

    def standardised(codes: Tensor) -> Tensor:
        return F.pad((codes - mean) / deviation, (0, 1), value=1.0)  # the last weight of a class is its bias

    def rule(weights: Tensor) -> Rule:
        return lambda codes: classes[(standardised(codes) @ weights.T).argmax(1)].cpu()

    x, rules = standardised(z), {}
    weights = x.new_zeros(len(classes), x.shape[1])
    with threadpool_limits(1):  # with more threads, SciPy's sums would depend on the number of cores
        for inverse_penalty in counted(INVERSE_PENALTIES):  # each search starts from the weights of the previous search
            weights = logistic_regression(x, targets, weights, inverse_penalty)
            rules[str(inverse_penalty)] = rule(weights)
    return rules


def logistic_regression(x: Tensor, y: Tensor, weights: Tensor, inverse_penalty: float) -> Tensor:
    """Fit p(y|x) = softmax(W·x) by minimising Σ −log p(y|x) + ‖W‖²/2C.

    Args:
        x: inputs (N, d). The last number of each input is 1. The weights of this number are the biases, which have no
            penalty.
        y: classes, int64 (N,), in [0, K).
        weights: starting point of the search, (K, d).
        inverse_penalty: the constant C in the loss.

    Returns:
        The weights W, float32 (K, d).
    """
    penalty = torch.full_like(weights, 1 / inverse_penalty)
    penalty[:, -1] = 0
    truth = F.one_hot(y, len(weights)).T.to(x)

    def mean_loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w = torch.from_numpy(flat).float().to(x.device).view_as(weights)
        log_p = (w @ x.T).log_softmax(0)  # (K, N)
        loss = -(log_p * truth).sum() + (penalty * w**2).sum() / 2
        gradient = (log_p.exp() - truth) @ x + penalty * w
        return loss.item() / len(x), (gradient / len(x)).flatten().cpu().double().numpy()

    start = weights.flatten().cpu().double().numpy()
    found = minimize(mean_loss, start, jac=True, method="L-BFGS-B", options=SEARCH)
    return torch.from_numpy(found.x).float().to(x.device).view_as(weights)


def nearest_neighbours(z: Tensor, y: Tensor) -> Rule:
    """Return a classifier that gives a code the most frequent class among the code's nearest neighbours.

    The neighbours are chosen from the codes z (N, d), which have the classes y (N,). If several classes are equally
    frequent, the classifier returns the lowest class number.
    """
    classes = y.unique()

    def rule(codes: Tensor) -> Tensor:
        near = y[torch.cdist(codes, z).topk(min(NEIGHBOURS, len(z)), largest=False).indices.cpu()]
        return classes[(near.unsqueeze(2) == classes).sum(1).argmax(1)]

    return rule


def shares(model: Autoencoder, images: Pairs, rules: Mapping[str, Rule], batch_size: int) -> Measured:
    """Accuracy of each classifier on `images`, in percent. The value of a single image is 0 or 100."""
    right = {name: Mean() for name in rules}
    for x, y in images.split(batch_size):
        codes = vectors(model, x)
        for name, rule in rules.items():
            right[name].add(100.0 * (rule(codes) == y))
    return Measured.of(right)
