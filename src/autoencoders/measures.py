"""How images and codes are measured. Images are floats in [0, 1], shape (B, C, H, W)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error per image, over all its dimensions: (B,)."""
    return (x - y).square().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per image in dB: (B,); infinite for equal images."""
    return -10 * mse(x, y).log10()


def ssim(x: Tensor, y: Tensor, window: int = 7) -> Tensor:
    """Structural similarity per image: (B,).

    Wang et al. 2004, equation 13, with a uniform window and unbiased (co)variances, over the positions where the
    window fits: the defaults of scikit-image.
    """

    def local(values: Tensor) -> Tensor:
        columns = F.avg_pool2d(values, (window, 1), stride=1)  # the window is separable
        return F.avg_pool2d(columns, (1, window), stride=1)

    unbiased = window**2 / (window**2 - 1)
    mean_x, mean_y = local(x), local(y)
    var_x = unbiased * (local(x * x) - mean_x**2)
    var_y = unbiased * (local(y * y) - mean_y**2)
    covariance = unbiased * (local(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return similarity.flatten(1).mean(1)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of two images over all their dimensions: (B,); 0 where one of them is constant."""
    x, y = (each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (x, y))
    return F.cosine_similarity(x, y)


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of how often each code is used, between 1 and K: `counts` (K,) over a whole data set."""
    p = counts.double() / counts.sum()
    return torch.special.entr(p).sum().exp().item()


class Mean:
    """The mean of numbers that come in batches, summed in float64."""

    def __init__(self) -> None:
        self.sum, self.count = torch.zeros((), dtype=torch.float64), 0

    def add(self, values: Tensor) -> None:
        """Count `values`, shape (B,)."""
        self.sum = self.sum.to(values.device) + values.double().sum()
        self.count += len(values)

    @property
    def value(self) -> float:
        """The mean of all."""
        return self.sum.item() / self.count


class Variance:
    """The variance of each dimension of vectors that come in batches, summed in float64."""

    def __init__(self) -> None:
        self.sum = self.square = torch.zeros((), dtype=torch.float64)
        self.count = 0

    def add(self, vectors: Tensor) -> None:
        """Count `vectors`, shape (B, d)."""
        values = vectors.double()
        self.sum = self.sum.to(values.device) + values.sum(0)
        self.square = self.square.to(values.device) + values.square().sum(0)
        self.count += len(values)

    @property
    def mean(self) -> Tensor:
        """The mean, shape (d,)."""
        return self.sum / self.count

    @property
    def value(self) -> Tensor:
        """The unbiased variance, shape (d,)."""
        return (self.square - self.sum.square() / self.count).clamp(min=0) / (self.count - 1)
