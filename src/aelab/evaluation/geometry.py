"""The geometry of a code: whether mixing two codes, or turning one of their numbers, moves an image as a dial would.

    line      x′_t = f(z_a + t/T·(z_b − z_a)),  t = 0 … T,  between the codes of two test images
    jump      max_t ‖x′_{t+1} − x′_t‖ ÷ mean_t ‖x′_{t+1} − x′_t‖, mean over the lines; from 1 to T
    midpoint  mean of D(x′_{T/2}) ÷ mean of D(x′_0) and D(x′_T),  D(x) = min_n ‖x − x_n‖² over training images x_n
    dial      c_s = g(f(z with z_j = mean_j + s·σ_j)),  Σ_s (Δc_sj/σ_j)² ÷ Σ_k Σ_s (Δc_sk/σ_k)², mean over images and j

A code is what `encode` (g) gives and f is `decode`, whichever the variant. For a VAE, z is the mean μ and f gives
E[x|z]. For a VQ-VAE, z is z_e before its quantisation, and f quantises: each place of the grid switches where its
line crosses from one code's cell into another's. So a line is straight where the encoder's output lives, and its ends
are the reconstructions.

What each can and cannot say. jump: many small switches at different t look smooth in a few steps, so T is large: by
then a continuous decoder's jump hardly depends on it, and that of one that switches grows with it. It would praise a
cross-fade, which is as even as can be; midpoint says how far from the data that leads. D favours blur: what all of a
model's images have of it is on both sides of the ratio, what its midpoints alone have is not. dial: the encoder finds
the turned dimension again and no other; not that it means anything.

Dimensions: T steps, N images, d numbers of a code, be it one tensor or several.
"""

import math

import torch
from torch import Tensor

from aelab.core.progress import counted
from aelab.core.tensors import device_of
from aelab.data.pairs import Pairs, batches
from aelab.evaluation.reconstruction import TRAVERSED, Images
from aelab.models.base import Autoencoder
from aelab.models.latent import flatten, line, unflatten

PAIRS = 64  # of test images, whose midpoints are measured
LINES = 16  # of them, walked along
STEPS = 256  # T
NEIGHBOURS = 5000  # training images
SPREAD = 1000  # test images that tell how far each dimension varies
TURNED = 32  # of them, whose dimensions are turned
TURNS = 5  # positions from −2 to 2 standard deviations
USED = 0.1  # a dimension counts if its standard deviation is at least this share of the largest


@torch.no_grad()
def measure(model: Autoencoder, images: Images, train: Images, batch_size: int) -> dict[str, float]:
    """jump, midpoint and, where it is defined, dial; NaN where nothing moves.

    Args:
        model: in evaluation mode, on any device.
        images: test images, two at least; a small number of them, evenly spread, is measured.
        train: training images, to which distances are measured; likewise.
        batch_size: images per batch.
    """
    (x,) = batches(Pairs.of(images).thinned(2 * PAIRS).targets, 2 * PAIRS, device_of(model))
    values = {
        "jump": jump(model, x, batch_size).nanmean().item(),
        "midpoint": midpoint(model, x, Pairs.of(train).thinned(NEIGHBOURS).targets, batch_size).item(),
    }
    if "direction" not in model.undefined:
        values["dial"] = dial(model, Pairs.of(images).thinned(SPREAD).targets, batch_size).mean().item()
    return values


def jump(model: Autoencoder, x: Tensor, batch_size: int) -> Tensor:
    """jump of lines from images in the first half of x to those in the second: (LINES,), fewer if there are fewer."""
    z, half = model.encode(x), len(x) // 2
    found = []
    for i in counted(range(0, half, math.ceil(half / LINES))):
        codes = flatten(line(z, i, i + half, STEPS + 1)).split(batch_size)
        row = torch.cat([model.decode(unflatten(some, z)) for some in codes])
        moved = row.diff(dim=0).flatten(1).norm(dim=1)
        found.append(moved.max() / moved.mean())
    return torch.stack(found)


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


def dial(model: Autoencoder, images: Images, batch_size: int) -> Tensor:
    """dial of the dimensions that vary most over the images, on some of these: (m, n) of m dimensions and n images."""
    latents = [model.encode(x) for x in batches(images, batch_size, device_of(model))]
    codes = torch.cat([flatten(z) for z in latents])
    deviation, mean = torch.std_mean(codes, 0)
    used = deviation >= USED * deviation.max()
    some = codes[:: math.ceil(len(codes) / TURNED)].repeat_interleave(TURNS, 0)
    position = torch.linspace(-2, 2, TURNS, device=codes.device).repeat(len(some) // TURNS)
    shares = []
    for j in counted(deviation.argsort(descending=True)[: min(TRAVERSED, int(used.sum()))].tolist()):
        turned = some.clone()
        turned[:, j] = mean[j] + position * deviation[j]
        again = [flatten(model.encode(model.decode(unflatten(z, latents[0])))) for z in turned.split(batch_size)]
        moved = (torch.cat(again) / deviation).unflatten(0, (-1, TURNS)).diff(dim=1).square().sum(1)  # (n, d)
        shares.append(moved[:, j] / moved[:, used].sum(1).clamp(min=torch.finfo(moved.dtype).tiny))
    return torch.stack(shares)
