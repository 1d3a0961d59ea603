"""t-SNE map: codes as points in the plane, with the classes of their images.

    t-SNE   finds points y_i in the plane with a small  Σ_ij p_ij·log(p_ij / q_ij),  q_ij ∝ 1/(1 + ‖y_i − y_j‖²)

The probability p_ij is large if the codes z_i and z_j are close together. The probability q_ij is large if the points
y_i and y_j are close together.

The search for the points starts from the first two principal components, so equal codes give an equal map. A map shows
which codes are neighbours. The distance between two groups of points and the size of a group have no meaning.

Source: van der Maaten & Hinton 2008.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from aelab.data.pairs import Pairs
from aelab.evaluation.probes import vectors
from aelab.models.base import Autoencoder

IMAGES = 300  # Maximum number of images in a map. On MNIST, a map takes 1 s on one core.
DIMENSIONS = 50  # A larger code is reduced to this number of principal components, as in the paper.
PERPLEXITY = 30  # For each code i, roughly the number of codes j with a large p_ij.
STEPS = 500


@torch.no_grad()
def code_map(model: Autoencoder, images: Pairs, batch_size: int) -> NDArray[np.float32] | None:
    """Compute the t-SNE map of a model's codes.

    Args:
        model: in evaluation mode, on any device.
        images: images, uint8 (N, C, H, W), paired with their classes, (N,). At most `IMAGES` evenly spread images are
            used.
        batch_size: images per batch.

    Returns:
        Two coordinates and the class of each image, float32 (n, 3). None if a code is not finite, if all codes are
        equal, or if there are fewer than 4 images.
    """
    images = images.thinned(IMAGES)
    z = torch.cat([vectors(model, x).cpu() for x, _ in images.split(batch_size)]).double().numpy()
    spread = z.std(0).max() if np.isfinite(z).all() else 0.0
    if not spread or len(z) <= 3:  # noqa: PLR2004 - among three points, all are neighbours, so a map says nothing
        return None
    return np.column_stack([placed((z - z.mean(0)) / spread), images.targets]).astype(np.float32)


def placed(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place codes in the plane by t-SNE: (n, d) → (n, 2). The mean of the codes must be 0."""
    from sklearn.manifold import TSNE  # noqa: PLC0415 - slow to import

    with threadpool_limits(1):  # with more threads, sums would depend on the number of cores
        axes, scales, _ = np.linalg.svd(z, full_matrices=False)
        z = (axes * scales)[:, :DIMENSIONS]
        perplexity = min(PERPLEXITY, (len(z) - 1) / 3)
        start = 1e-4 * z[:, :2] / z[:, 0].std() if z.shape[1] > 1 else "random"
        found = TSNE(perplexity=perplexity, init=start, max_iter=STEPS, random_state=0).fit_transform(z)
    return np.asarray(found, np.float64)
