"""Fidelity of samples: how much generated samples resemble real images.

    Fréchet distance  d² = ‖μ − μ′‖² + tr(Σ + Σ′ − 2·(Σ Σ′)^½), between Gaussians fitted to the samples and the images
    precision         share of the samples that are inside the ball around at least one image
    recall            share of the images that are inside the ball around at least one sample

Each sample and each image is a point in the feature space of a `Classifier`. The samples have the mean μ and the
covariance Σ, the images μ′ and Σ′. The radius of the ball around a sample is the distance to the k-th nearest other
sample. The radius of the ball around an image is the distance to the k-th nearest other image.

Precision is high if each sample resembles an image. Recall is high if each image resembles a sample. The Fréchet
distance measures both properties in one number. The distance becomes smaller as the number of points grows, so compare
only sets of equal size.

Source: Fréchet distance: Dowson & Landau 1982; Heusel et al. 2017 apply it to samples, with the features of Inception.
Precision and recall: Kynkäänniemi et al. 2019, equations 1 and 2.
"""

import math

import torch
from torch import Tensor

from aelab.evaluation.metric_names import SAMPLES

NEAREST = 3  # k, which defines the radius of a ball, as in Kynkäänniemi et al. 2019.
FEWEST = NEAREST + 1  # Minimum number of samples, and of images.
ROWS = 500  # Maximum number of rows of a distance matrix in memory.


def compare(samples: Tensor, images: Tensor, reach: Tensor | None = None) -> dict[str, float]:
    """Fréchet distance, precision and recall of samples.

    Args:
        samples: features of the samples, (N, d).
        images: features of the images, (M, d).
        reach: radii of the balls around the images, (M,), as `radii` returns them; None to compute the radii here.

    Returns:
        The three metrics by the names in `SAMPLES`; all NaN if a feature is not finite.
    """
    if not (samples.isfinite().all() and images.isfinite().all()):
        return dict.fromkeys(SAMPLES, math.nan)
    precision, recall = covered(samples, images, radii(images) if reach is None else reach)
    return {"frechet": frechet(samples, images), "sample_precision": precision, "sample_recall": recall}


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance between two Gaussians, fitted to the points a (N, d) and b (M, d).

    The trace of (Σ·Σ′)^½ is the nuclear norm of Σ^½·Σ′^½, and tr Σ is the squared Frobenius norm of Σ^½. Both norms are
    real numbers. The square root of Σ·Σ′ itself may be complex after rounding errors.
    """
    root_a, root_b = root(torch.cov(a.double().T)), root(torch.cov(b.double().T))
    shift = (a.double().mean(0) - b.double().mean(0)).square().sum()
    overlap = torch.linalg.matrix_norm(root_a @ root_b, "nuc")
    return (shift + root_a.square().sum() + root_b.square().sum() - 2 * overlap).clamp(min=0).item()


def root(covariance: Tensor) -> Tensor:
    """Square root Σ^½ of a symmetric positive semidefinite matrix Σ: (d, d) → (d, d)."""
    values, vectors = torch.linalg.eigh(torch.atleast_2d(covariance))
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def radii(points: Tensor) -> Tensor:
    """Radius of the ball around each point, which is the distance to the k-th nearest other point: (N, d) → (N,)."""
    return torch.cat([  # NEAREST + 1, because the nearest of all points is the point itself
        torch.cdist(rows, points).topk(NEAREST + 1, largest=False).values[:, -1] for rows in points.split(ROWS)
    ])  # fmt: skip


def covered(samples: Tensor, images: Tensor, reach: Tensor) -> tuple[float, float]:
    """Precision and recall of samples (N, d) and images (M, d): the shares that the balls of the other set cover.

    `reach` has the radii of the balls around the images, (M,).
    """
    inside, found = list[Tensor](), torch.zeros(len(images), dtype=torch.bool)
    for rows, radius in zip(samples.split(ROWS), radii(samples).split(ROWS), strict=True):
        distances = torch.cdist(rows, images)
        inside.append((distances <= reach).any(1))
        found |= (distances <= radius.unsqueeze(1)).any(0)
    return torch.cat(inside).double().mean().item(), found.double().mean().item()
