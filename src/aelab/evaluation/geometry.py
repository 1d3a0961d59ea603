"""The geometry of a code: how near to the data an image is that is decoded half of the way between two codes.

    line      x′_t = f((1 − t)·z_a + t·z_b) between the codes of two test images
    midpoint  mean of D(x′_½) ÷ mean of D(x′_0) and D(x′_1),  D(x) = min_n ‖x − x_n‖² over training images x_n

A code is what `encode` gives and f is `decode`, whichever the variant. For a VAE, z is the mean μ and f gives E[x|z].
For a VQ-VAE, z is z_e before its quantisation, and f quantises. So a line is straight where the encoder's output lives,
and its ends are the reconstructions. D favours blur: what all of a model's images have of it is on both sides of the
ratio, what its midpoints alone have is not.
"""

import math

import torch
from torch import Tensor

from aelab.core.progress import counted
from aelab.core.tensors import device_of
from aelab.data.pairs import Pairs, batches
from aelab.evaluation.reconstruction import Images
from aelab.models.base import Autoencoder
from aelab.models.latent import line

PAIRS = 64  # of test images, whose midpoints are measured
NEIGHBOURS = 5000  # training images


@torch.no_grad()
def measure(model: Autoencoder, images: Images, train: Images, batch_size: int) -> dict[str, float]:
    """midpoint; NaN where the images are the training images themselves, given back without an error.

    Args:
        model: in evaluation mode, on any device.
        images: test images, two at least; a small number of them, evenly spread, is measured.
        train: training images, to which distances are measured; likewise.
        batch_size: images per batch.
    """
    (x,) = batches(Pairs.of(images).thinned(2 * PAIRS).targets, 2 * PAIRS, device_of(model))
    return {"midpoint": midpoint(model, x, Pairs.of(train).thinned(NEIGHBOURS).targets, batch_size).item()}


def midpoint(model: Autoencoder, x: Tensor, data: Images, batch_size: int) -> Tensor:
    """midpoint of the lines from each image in the first half of x to one in the second: ()."""
    z, half = model.encode(x), len(x) // 2
    rows = torch.stack([model.decode(line(z, i, i + half, 3)) for i in counted(range(half))])
    middle, ends = nearest(rows[:, 1], data, batch_size), nearest(rows[:, ::2].flatten(0, 1), data, batch_size)
    return middle.mean() / ends.mean()


def nearest(x: Tensor, data: Images, batch_size: int) -> Tensor:
    """D of each image of x (N, C, H, W), the squared distance to the nearest in `data`: (N,)."""
    found = torch.full((len(x),), math.inf, device=x.device)
    for batch in batches(data, batch_size, x.device):
        found = found.minimum(torch.cdist(x.flatten(1), batch.flatten(1)).square().amin(1))
    return found
