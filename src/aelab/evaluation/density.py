"""Codes drawn from two densities other than the model's own prior: a fitted mixture and a uniform distribution.

    fitted   z ~ Σ_c π_c N(z; μ_c, Σ_c), a mixture fitted to the codes of training images after the training
    uniform  z ~ U({1 … K}^L): at each of the L places of the grid, all K codes of the codebook are equally likely

Images decoded from uniform codes show how much the model's own prior contributes to its samples. With a fitted
density, an autoencoder without a prior can generate images, too. Even for a model with a prior, a fitted density may
describe the codes better.

Source: Ghosh et al. 2020, section 4, "ex-post density estimation".

Dimensions: N images, d numbers of a code, K codes, (h, w) grid, L = h·w.
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

COMPONENTS = 10  # Gaussians with full covariances, as in Ghosh et al. 2020.
ITERATIONS = 1000  # Maximum number of EM steps, far more than the fit needs.
CODES = 5000  # Maximum number of training images for the fit, evenly spread.
LARGEST = 512  # Maximum of d, because each covariance has d² numbers.


@torch.no_grad()
def unfitted(model: Autoencoder) -> str | None:
    """Return the reason why no density can be fitted to the model's codes, or None if one can."""
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
    """Draw codes from a mixture that is fitted to the codes of training images.

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
    scale = codes.std() or 1.0  # after scaling, the 1e-6 that scikit-learn adds to variances is small
    components = min(COMPONENTS, len(codes))
    mixture = GaussianMixture(components, max_iter=ITERATIONS, init_params="k-means++", random_state=seed)
    with threadpool_limits(1):
        drawn, _ = mixture.fit(codes / scale).sample(count)
    return torch.from_numpy(drawn * scale).float().to(device)


@torch.no_grad()
def uniform(model: DiscreteAutoencoder, count: int, *, seed: int) -> Tensor:
    """Draw grids of indices in which all codes are equally likely.

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
