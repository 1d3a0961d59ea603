"""Codes drawn from two densities other than the model's own prior: a fitted mixture and a uniform distribution.

    fitted   z ~ Σ_c π_c N(z; μ_c, Σ_c), a mixture of Gaussians, fitted to the codes of training images
    uniform  k ~ U({0 … K − 1}^L): at each of the L places of the grid, all K codes of the codebook are equally likely

The mixture is fitted after the model's training. With a mixture, an autoencoder without a prior can generate images.
For a model with a prior, the mixture may describe the codes better than the prior does.

Images decoded from uniform codes are a baseline for samples from a learned prior, which should be closer to the data.

Source: Ghosh et al. 2020, section 4, "ex-post density estimation".

Dimensions: N images, d numbers in a code, K codes in the codebook, (h, w) grid of codes, L = h·w.
"""

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from aelab.core.tensors import device_of
from aelab.data.pairs import Pairs, batches
from aelab.evaluation.reconstruction import VECTORS, Images
from aelab.models.base import Autoencoder
from aelab.models.discrete import DiscreteAutoencoder
from aelab.models.latent import flatten

COMPONENTS = 10  # Number of Gaussians. Each has a full covariance matrix, as in Ghosh et al. 2020.
ITERATIONS = 1000  # Maximum number of EM steps, far more than the fit needs.
CODES = 5000  # Maximum number of training images for the fit, evenly spread over the training split.
LARGEST = 512  # Largest d for which a mixture is fitted, because each covariance matrix has d² numbers.


@torch.no_grad()
def unfitted(model: Autoencoder) -> str | None:
    """Return the reason why no mixture can be fitted to the model's codes, or None if the fit is possible."""
    if isinstance(model, DiscreteAutoencoder):
        return "a discrete code has no density"
    z = model.encode(torch.zeros(1, *model.image, device=device_of(model)))
    if not isinstance(z, Tensor) or z.ndim != VECTORS:
        return "the code is not a vector but a grid"
    if z.shape[1] > LARGEST:
        return f"the code has {z.shape[1]} numbers, more than the {LARGEST} that the fit allows"
    return None


@torch.no_grad()
def fitted(model: Autoencoder, train: Images, count: int, *, seed: int, batch_size: int) -> Tensor:
    """Fit a mixture of Gaussians to the codes of training images, and draw codes from the mixture.

    Args:
        model: a model whose code is a vector, in evaluation mode, on any device.
        train: training images, uint8 (N, C, H, W).
        count: number of codes to draw.
        seed: seed of the fit and of the draws.
        batch_size: images per batch.

    Returns:
        Codes (count, d) on the model's device; all NaN if the code of a training image is not finite.
    """
    device = device_of(model)
    images = batches(Pairs.of(train).thinned(CODES).targets, batch_size, device)
    codes = torch.cat([flatten(model.encode(x)) for x in images]).cpu().double().numpy()
    if not np.isfinite(codes).all():
        return torch.full((count, codes.shape[1]), torch.nan, device=device)
    # scikit-learn adds 1e-6 to each variance. Codes are scaled to a standard deviation of 1, so the addition is small.
    scale = codes.std() or 1.0
    components = min(COMPONENTS, len(codes))
    mixture = GaussianMixture(components, max_iter=ITERATIONS, init_params="k-means++", random_state=seed)
    with threadpool_limits(1):
        drawn, _ = mixture.fit(codes / scale).sample(count)
    return torch.from_numpy(drawn * scale).float().to(device)


@torch.no_grad()
def uniform(model: DiscreteAutoencoder, count: int, *, seed: int) -> Tensor:
    """Draw grids of indices. At each place of a grid, all codes of the codebook are equally likely.

    Args:
        model: a model with a codebook, in evaluation mode, on any device.
        count: number of grids to draw.
        seed: seed of the draws.

    Returns:
        Indices (count, h, w), int64, on the model's device.
    """
    device = device_of(model)
    grid = model.indices(torch.zeros(1, *model.image, device=device)).shape[1:]
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randint(model.quantizer.codes, (count, *grid), generator=generator, device=device)
