"""Samples from densities over the code that the model has not learned, so that its prior can be told from the rest.

    fitted   z ~ Σ_c π_c N(z; μ_c, Σ_c), fitted after the training to the codes of training images
    uniform  z ~ U({1 … K}^L): at each place of the grid all codes of the codebook are equally likely

Ghosh et al. 2020, section 4: "ex-post density estimation" makes any autoencoder generative, and mends a prior that the
codes do not follow. So a prior that is learned is compared with one that is fitted, and with one that is not.

Dimensions: N images, d numbers of a code, K codes, (h, w) grid.
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

COMPONENTS = 10  # as in Ghosh et al. 2020, with full covariances
ITERATIONS = 1000  # many more than the fit takes to converge
CODES = 5000  # that are fitted to, evenly spread over the training images
LARGEST = 512  # numbers in a code: a covariance has their square


@torch.no_grad()
def unfitted(model: Autoencoder) -> str | None:
    """Why no density is fitted to the model's codes; None where one is."""
    if isinstance(model, DiscreteAutoencoder):
        return "the code is discrete: it has no density"
    z = model.encode(torch.zeros(1, *model.image, device=device_of(model)))
    if not isinstance(z, Tensor) or z.ndim != VECTORS:
        return "the code is no vector, but lies on a grid"
    if z.shape[1] > LARGEST:
        return f"the code has {z.shape[1]} numbers, more than the {LARGEST} that a density is fitted to"
    return None


@torch.no_grad()
def fitted(model: Autoencoder, train: Images, count: int, *, seed: int, batch_size: int) -> Tensor:
    """`count` codes drawn from a mixture fitted to the codes of training images: (count, d); NaN where these are not
    finite.

    Args:
        model: with a vector as its code, in evaluation mode, on any device.
        train: uint8 (N, C, H, W).
        count: of the codes to be drawn.
        seed: of the fit and of the codes.
        batch_size: images per batch.
    """
    device = device_of(model)
    images = batches(Pairs.of(train).thinned(CODES).targets, batch_size, device)
    codes = torch.cat([flatten(model.encode(x)) for x in images]).cpu().double().numpy()
    if not np.isfinite(codes).all():
        return torch.full((count, codes.shape[1]), torch.nan, device=device)
    scale = codes.std() or 1.0  # what scikit-learn adds to variances is small against 1
    components = min(COMPONENTS, len(codes))
    mixture = GaussianMixture(components, max_iter=ITERATIONS, init_params="k-means++", random_state=seed)
    with threadpool_limits(1):
        drawn, _ = mixture.fit(codes / scale).sample(count)
    return torch.from_numpy(drawn * scale).float().to(device)


@torch.no_grad()
def uniform(model: DiscreteAutoencoder, count: int, *, seed: int) -> Tensor:
    """`count` grids of codes, all equally likely: (count, h, w)."""
    device = device_of(model)
    grid = model.indices(torch.zeros(1, *model.image, device=device)).shape[1:]
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randint(model.quantizer.codes, (count, *grid), generator=generator, device=device)
