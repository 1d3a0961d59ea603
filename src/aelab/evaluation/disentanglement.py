"""Disentanglement: whether each dimension of a code describes one known factor of the images, such as the position.

    MIG  1/K Σ_k 1/H(v_k) · (I(z_j; v_k) − max_{i≠j} I(z_i; v_k)),  j = argmax_i I(z_i; v_k)
    DCI  Σ_j ρ_j · (1 − H_K(P_j)),  P_jk = R_jk / Σ_k R_jk,  ρ_j = Σ_k R_jk / Σ_jk R_jk

MIG is the mutual information gap. DCI is short for disentanglement, completeness and informativeness, of which this
module computes the disentanglement. v_k is the k-th factor, and z_j the j-th dimension of the code. I is the mutual
information, and H the entropy. R_jk is the importance of z_j in a random forest that predicts v_k. H_K is the entropy
with logarithms to the base K.

Both metrics are 1 if each factor has its own dimension, which describes only this factor. MIG is high if each factor is
described by only one dimension. DCI is high if each dimension describes only one factor. For example, suppose that each
factor is described equally well by two dimensions, which describe no other factor. Then MIG is 0 and DCI is 1.

If a code equals the factors, a random rotation of the code lowers MIG below 0.25 and DCI below 0.5.

DCI uses a random forest, because a linear regression misses a factor if a dimension first rises and then falls as the
factor grows. The principal components of images usually rise and fall in this way. With a regression, DCI of PCA would
be about 0.5 on the data set `shapes`.

The mutual information is estimated from histograms. For a histogram, the range of each dimension is divided into `BINS`
bins of equal width (Locatello et al. 2019).

Source: MIG: Chen et al. 2018, equation 6. DCI: Eastwood & Williams 2018, section 2, which calls the score D. Random
forest: the review by Carbonneau et al. 2022 recommends DCI with a random forest.

Dimensions: N images, K factors, d numbers in a code.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from aelab.core.progress import counted
from aelab.core.tensors import device_of
from aelab.data.pairs import Pairs, batches
from aelab.evaluation.metric_names import FACTORS
from aelab.evaluation.reconstruction import Images
from aelab.models.base import Autoencoder
from aelab.models.latent import flatten

IMAGES = 4000  # maximum number of images, evenly spread over the test split
BINS = 20
TREES = {"n_estimators": 10, "min_samples_leaf": 5, "random_state": 0}
# Maximum number of code dimensions that a tree considers at a split. With a smaller maximum, all considered
# dimensions may be uninformative.
SPLITS = 64
TINY = np.finfo(np.float64).tiny


@torch.no_grad()
def measure(model: Autoencoder, images: Images, factors: NDArray[np.uint8], batch_size: int) -> dict[str, float]:
    """MIG and DCI of the model's code.

    Args:
        model: in evaluation mode, on any device.
        images: test images, uint8 (N, C, H, W).
        factors: the known factors of each image, (N, K).
        batch_size: images per batch.

    Returns:
        "mig" and "dci", in [0, 1]; NaN for both if a code is not finite.
    """
    inputs, targets = Pairs(images, factors).thinned(IMAGES)
    codes = torch.cat([flatten(model.encode(x)).cpu() for x in batches(inputs, batch_size, device_of(model))])
    if not codes.isfinite().all():
        return dict.fromkeys(FACTORS, np.nan)
    z, v = codes.double().numpy(), np.asarray(targets)
    return {"mig": mig(z, v), "dci": dci(z, v)}


def mig(z: NDArray[np.float64], v: NDArray[np.uint8]) -> float:
    """Mutual information gap (MIG) of codes z (N, d) and factors v (N, K)."""
    from sklearn.metrics import mutual_info_score  # noqa: PLC0415 - slow to import, and few data sets have known factors

    bins = [np.digitize(each, np.linspace(each.min(), each.max(), BINS + 1)[1:-1]) for each in z.T]
    gaps = []
    for factor in counted(v.T):
        second, first = sorted([0.0, *(mutual_info_score(factor, each) for each in bins)])[-2:]
        gaps.append((first - second) / mutual_info_score(factor, factor))
    return float(np.mean(gaps))


def dci(z: NDArray[np.float64], v: NDArray[np.uint8]) -> float:
    """Disentanglement score (DCI) of codes z (N, d) and factors v (N, K)."""
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    tree = TREES | {"max_features": min(SPLITS, z.shape[1])}
    forests = [RandomForestClassifier(**tree).fit(z, factor) for factor in counted(v.T)]
    importance = np.stack([forest.feature_importances_ for forest in forests], 1)  # (d, K)
    total = importance.sum(1, keepdims=True)
    p = importance / np.maximum(total, TINY)
    entropy = -(p * np.log(np.maximum(p, TINY))).sum(1, keepdims=True) / np.log(v.shape[1])
    return float(((1 - entropy) * total).sum() / max(total.sum(), TINY))
