"""Geometry of a code: whether an image decoded halfway between two codes is near the training images.

    line      x′_t = f((1 − t)·z_a + t·z_b) between the codes of two test images
    midpoint  mean of D(x′_½) ÷ mean of D(x′_0) and D(x′_1),  D(x) = min_n ‖x − x_n‖² over training images x_n

For every kind of model, a code z is the output of `encode`, and f is `decode`. For a VAE, z is the mean μ, and f(z) is
E[x|z]. For a VQ-VAE, z is the vector z_e before quantisation, and f first quantises z. A line is therefore straight in
the space of the encoder's output, and the images at its ends are the reconstructions of the two test images.

A blurred image has a smaller D. If all decoded images of a model are equally blurred, this effect cancels in the ratio.
If the images at the midpoints are more blurred than the images at the ends, the ratio becomes smaller.
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

PAIRS = 64  # Maximum number of pairs of test images.
NEIGHBOURS = 5000  # Maximum number of training images among which the nearest image is searched.


@torch.no_grad()
def measure(model: Autoencoder, images: Images, train: Images, batch_size: int) -> dict[str, float]:
    """Measure how far midpoints are from the training images, relative to the ends of the lines.

    Args:
        model: in evaluation mode, on any device.
        images: at least two test images, uint8 (N, C, H, W). At most 2·`PAIRS` of them, evenly spread, are used.
        train: training images, uint8 (M, C, H, W). At most `NEIGHBOURS` of them, evenly spread, are used.
        batch_size: training images per batch.

    Returns:
        "midpoint", a number without unit. The number is infinite or NaN if every reconstruction equals a training
            image.
    """
    (x,) = batches(Pairs.of(images).thinned(2 * PAIRS).targets, 2 * PAIRS, device_of(model))
    return {"midpoint": midpoint(model, x, Pairs.of(train).thinned(NEIGHBOURS).targets, batch_size).item()}


def midpoint(model: Autoencoder, x: Tensor, data: Images, batch_size: int) -> Tensor:
    """Ratio "midpoint", shape (). Line i goes from image i in the first half of x to image i in the second half."""
    z, half = model.encode(x), len(x) // 2
    rows = torch.stack([model.decode(line(z, i, i + half, 3)) for i in counted(range(half))])
    middle, ends = nearest(rows[:, 1], data, batch_size), nearest(rows[:, ::2].flatten(0, 1), data, batch_size)
    return middle.mean() / ends.mean()


def nearest(x: Tensor, data: Images, batch_size: int) -> Tensor:
    """Squared distance D from each image of x (N, C, H, W) to the nearest image in `data`: (N,)."""
    found = torch.full((len(x),), math.inf, device=x.device)
    for batch in batches(data, batch_size, x.device):
        found = found.minimum(torch.cdist(x.flatten(1), batch.flatten(1)).square().amin(1))
    return found
