"""Whether single dimensions of a code hold single factors of the images, on data sets whose factors are known.

    MIG  1/K Σ_k 1/H(v_k) · (I(z_j; v_k) − max_{j′≠j} I(z_j′; v_k)),  j the dimension that tells most about v_k
    DCI  Σ_j ρ_j · (1 − H_K(P_j)),  P_jk = R_jk / Σ_k R_jk,  ρ_j = Σ_k R_jk / Σ_jk R_jk

of factors v_k and dimensions z_j, R_jk being the importance of z_j to a random forest that predicts v_k, and H_K the
entropy to the base K. Chen et al. 2018, equation 6; Eastwood & Williams 2018, section 2, there called disentanglement.
Both are 1 where each factor has a dimension to itself, and near 0 for a random rotation of such a code. MIG asks that a
factor lies in one dimension, DCI that a dimension has one factor: a factor spread over several dimensions of its own has
MIG 0 and DCI 1. Of the metrics in use, the review of Carbonneau et al. 2022 recommends DCI.

I and H are those of histograms: of a dimension in `BINS` bins of equal width, as in Locatello et al. 2019.

Dimensions: N images, K factors, d numbers of a code.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import mutual_info_score

from aelab.core.progress import counted
from aelab.core.tensors import device_of
from aelab.data.pairs import Pairs, batches
from aelab.evaluation.reconstruction import Images
from aelab.models.base import Autoencoder
from aelab.models.latent import flatten

IMAGES = 4000  # evenly spread
BINS = 20
FOREST = {"n_estimators": 50, "min_samples_leaf": 5, "random_state": 0}


@torch.no_grad()
def measure(model: Autoencoder, images: Images, factors: NDArray[np.uint8], batch_size: int) -> dict[str, float]:
    """mig and dci of the model's code; NaN where a code is not finite.

    Args:
        model: in evaluation mode, on any device.
        images: test images, uint8 (N, C, H, W).
        factors: of each image, (N, K).
        batch_size: images per batch.
    """
    pairs = Pairs(images, factors).thinned(IMAGES)
    codes = torch.cat([flatten(model.encode(x)).cpu() for x in batches(pairs.inputs, batch_size, device_of(model))])
    if not codes.isfinite().all():
        return {"mig": np.nan, "dci": np.nan}
    z, v = codes.double().numpy(), np.asarray(pairs.targets)
    return {"mig": mig(z, v), "dci": dci(z, v)}


def mig(z: NDArray[np.float64], v: NDArray[np.uint8]) -> float:
    """MIG of codes z (N, d) and factors v (N, K)."""
    bins = [np.digitize(each, np.linspace(each.min(), each.max(), BINS + 1)[1:-1]) for each in z.T]
    gaps = []
    for factor in counted(v.T):
        information = np.sort([0.0, *(mutual_info_score(factor, each) for each in bins)])
        gaps.append((information[-1] - information[-2]) / mutual_info_score(factor, factor))
    return float(np.mean(gaps))


def dci(z: NDArray[np.float64], v: NDArray[np.uint8]) -> float:
    """DCI's disentanglement of codes z (N, d) and factors v (N, K)."""
    forests = [RandomForestClassifier(**FOREST).fit(z, factor) for factor in counted(v.T)]
    importance = np.stack([forest.feature_importances_ for forest in forests], 1)  # (d, K)
    total = importance.sum(1)
    p = importance / np.maximum(total, np.finfo(float).tiny)[:, None]
    entropy = -(p * np.log(np.maximum(p, np.finfo(float).tiny))).sum(1) / np.log(v.shape[1])
    return float(((1 - entropy) * total).sum() / total.sum())
