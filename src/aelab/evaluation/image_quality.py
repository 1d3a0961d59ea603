"""Image quality: how like two images are. Images are floats in [0, 1], shape (B, C, H, W)."""

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
    rows, columns = (windows(side, window, x) for side in x.shape[2:])

    def local(values: Tensor) -> Tensor:
        return rows @ (values @ columns.T)  # the window is separable

    unbiased = window**2 / (window**2 - 1)
    mean_x, mean_y = local(x), local(y)
    var_x = unbiased * (local(x * x) - mean_x**2)
    var_y = unbiased * (local(y * y) - mean_y**2)
    covariance = unbiased * (local(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return similarity.flatten(1).mean(1)


def windows(side: int, window: int, like: Tensor) -> Tensor:
    """The means over all windows of a line of `side` numbers, as a matrix (side − window + 1, side)."""
    return torch.eye(side, dtype=like.dtype, device=like.device).unfold(0, window, 1).mean(2)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of two images over all their dimensions: (B,); 0 where one of them is constant."""
    x, y = (each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (x, y))
    return F.cosine_similarity(x, y).clamp(-1, 1)
