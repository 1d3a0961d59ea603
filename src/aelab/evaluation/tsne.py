"""Codes in two dimensions: where a model puts images of classes that it has not been told.

    t-SNE   places y_i in the plane at which  Σ_ij p_ij·log(p_ij / q_ij)  is small:  p_ij says how near the codes z_i
            and z_j are to each other, q_ij ∝ 1/(1 + ‖y_i − y_j‖²) how near their places

van der Maaten & Hinton 2008. It begins with the first two principal components, so that equal codes give an equal map.
A map keeps who is near to whom: how far apart two groups lie, and how large one is, says nothing.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from aelab.data.pairs import Pairs
from aelab.evaluation.probes import vectors
from aelab.models.base import Autoencoder

IMAGES = 500  # of which a map is made: 1 s of one core for those of MNIST
DIMENSIONS = 50  # principal components that are left of larger codes, as the authors do it
PERPLEXITY = 30  # about so many neighbours count
STEPS = 500


@torch.no_grad()
def code_map(model: Autoencoder, images: Pairs, batch_size: int) -> NDArray[np.float32] | None:
    """Place and class of each code, (n, 3); None where a code is not finite, all are the same, or there are too few.

    Args:
        model: in evaluation mode, on any device.
        images: uint8 (N, C, H, W) with their classes (N,); a small number of them, evenly spread, is placed.
        batch_size: images per batch.
    """
    images = images.thinned(IMAGES)
    z = torch.cat([vectors(model, x).cpu() for x, _ in images.split(batch_size)]).double().numpy()
    spread = z.std(0).max() if np.isfinite(z).all() else 0.0
    if not spread or len(z) <= 3:  # noqa: PLR2004 - of three points each is a neighbour of the others
        return None
    return np.column_stack([placed((z - z.mean(0)) / spread), images.targets]).astype(np.float32)


def placed(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places (n, 2) of codes (n, d) whose mean is 0."""
    from sklearn.manifold import TSNE  # noqa: PLC0415 - slow to import

    with threadpool_limits(1):  # the order of its sums does not depend on how many cores there are
        axes, scales, _ = np.linalg.svd(z, full_matrices=False)
        z = (axes * scales)[:, :DIMENSIONS]
        perplexity = min(PERPLEXITY, (len(z) - 1) / 3)
        start = 1e-4 * z[:, :2] / z[:, 0].std() if z.shape[1] > 1 else "random"
        found = TSNE(perplexity=perplexity, init=start, max_iter=STEPS, random_state=0).fit_transform(z)
    return np.asarray(found, np.float64)
