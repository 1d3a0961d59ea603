"""How like images samples are, both as sets of features: points in the space of a `Classifier`.

    Fréchet distance  d² = ‖μ − μ′‖² + tr(Σ + Σ′ − 2·(Σ Σ′)^½), of the Gaussians fitted to both sets
    precision         share of the samples that lie in the ball of an image: it reaches to its k-th nearest image
    recall            share of the images that lie in the ball of a sample: it reaches to its k-th nearest sample

Dowson & Landau 1982 and, as a measure of samples, Heusel et al. 2017, there in the features of Inception, which these
are not; Kynkäänniemi et al. 2019, equations 1 and 2. The distance mixes what precision (are the samples like images?)
and recall (are there samples like each image?) tell apart. It shrinks with the number of points: compare equal ones.
"""

import math

import torch
from torch import Tensor

from aelab.evaluation.metric_names import SAMPLES

NEAREST = 3  # k of the balls, as in Kynkäänniemi et al. 2019
FEWEST = NEAREST + 1  # points of a set whose balls are defined
ROWS = 500  # of a matrix of distances at a time


def compare(samples: Tensor, images: Tensor, reach: Tensor | None = None) -> dict[str, float]:
    """All of it for two sets of features (N, d) and (M, d), by the names of `SAMPLES`; NaN where a feature is.

    `reach` has the `radii` of the images, if they are known.
    """
    if not (samples.isfinite().all() and images.isfinite().all()):
        return dict.fromkeys(SAMPLES, math.nan)
    precision, recall = covered(samples, images, radii(images) if reach is None else reach)
    return {"frechet": frechet(samples, images), "sample_precision": precision, "sample_recall": recall}


def frechet(a: Tensor, b: Tensor) -> float:
    """d² of the Gaussians fitted to the points a (N, d) and b (M, d).

    tr (Σ Σ′)^½ is the nuclear norm of Σ^½ Σ′^½, and tr Σ the square of Σ^½'s Frobenius norm: nothing is complex.
    """
    root_a, root_b = root(torch.cov(a.double().T)), root(torch.cov(b.double().T))
    shift = (a.double().mean(0) - b.double().mean(0)).square().sum()
    overlap = torch.linalg.matrix_norm(root_a @ root_b, "nuc")
    return (shift + root_a.square().sum() + root_b.square().sum() - 2 * overlap).clamp(min=0).item()


def root(covariance: Tensor) -> Tensor:
    """Σ^½ of a symmetric Σ without negative eigenvalues: (d, d) both."""
    values, vectors = torch.linalg.eigh(torch.atleast_2d(covariance))
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def radii(points: Tensor) -> Tensor:
    """How far the ball of each point (N, d) reaches: (N,)."""
    return torch.cat([  # each point is its own nearest, at distance 0
        torch.cdist(rows, points).topk(NEAREST + 1, largest=False).values[:, -1] for rows in points.split(ROWS)
    ])  # fmt: skip


def covered(samples: Tensor, images: Tensor, reach: Tensor) -> tuple[float, float]:
    """Precision and recall of samples (N, d) and images (M, d), whose balls `reach` as far: (M,)."""
    inside, found = list[Tensor](), torch.zeros(len(images), dtype=torch.bool)
    for rows, radius in zip(samples.split(ROWS), radii(samples).split(ROWS), strict=True):
        distances = torch.cdist(rows, images)
        inside.append((distances <= reach).any(1))
        found |= (distances <= radius.unsqueeze(1)).any(0)
    return torch.cat(inside).double().mean().item(), found.double().mean().item()
