"""Image quality: how similar two images are. Images are floats in [0, 1] of shape (B, C, H, W)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error per image, over all pixels and channels: (B,)."""
    return (x - y).square().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per image, in dB: (B,). The ratio is infinite for equal images."""
    return -10 * mse(x, y).log10()


def ssim(x: Tensor, y: Tensor, window: int = 7) -> Tensor:
    """Structural similarity (SSIM) per image: the mean over all positions where the window fits into the image.

    All pixels in a window have equal weights. Variances and covariances are unbiased. Both choices are scikit-image's
    defaults.

    Args:
        x: images (B, C, H, W), floats in [0, 1].
        y: images of the same shape and range.
        window: side length of the square window, in pixels. H and W must be at least as large.

    Returns:
        SSIM in [−1, 1], (B,).

    Source: Wang et al. 2004, equation 13.
    """
    rows, columns = (windows(side, window, x) for side in x.shape[2:])

    def local(values: Tensor) -> Tensor:
        return rows @ (values @ columns.T)  # the mean of a window is the mean of its row means

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
    """Matrix (side − window + 1, side) whose product with `side` numbers has the mean of each window.

    A window is `window` consecutive numbers. The matrix has the type and the device of `like`.
    """
    return torch.eye(side, dtype=like.dtype, device=like.device).unfold(0, window, 1).mean(2)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation between the values of each image of x and the corresponding image of y: (B,).

    If one of the two images is constant, the correlation is 0.
    """
    x, y = (each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (x, y))
    return F.cosine_similarity(x, y).clamp(-1, 1)
