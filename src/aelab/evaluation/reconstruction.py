"""Reconstruction metrics, the bound on −log p(x), and example images of a trained model.

All functions compute in batches and without gradients.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelab.core import arrays
from aelab.core.errors import UserError
from aelab.core.progress import counted, part
from aelab.core.tensors import BATCH, as_float, device_of
from aelab.data.checks import check_stored, described
from aelab.data.pairs import Pairs, batches
from aelab.evaluation import bounds, image_quality, out_of_distribution
from aelab.evaluation.image_quality import mse
from aelab.evaluation.metric_names import METRICS_OF
from aelab.models import statistics
from aelab.models.base import Autoencoder, check_model
from aelab.models.discrete import DiscreteAutoencoder
from aelab.models.latent import flatten, line, parts, unflatten

Images: TypeAlias = NDArray[np.uint8]  # (N, C, H, W), in memory or on disk
Rows: TypeAlias = list[tuple[str, Tensor]]
Measure: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # output and target, both (B, C, H, W) → (B,)

LEFT = 5  # Images in the left half of a row.
SAMPLE_ROWS = 6
UNLIKE = 500  # Number of noise images, and of photographs, for `identity`. The number is smaller if images are large.
VECTORS = 2  # Number of axes of a batch of vectors, (B, d). A batch of grids has more axes.
TRAVERSED = 8  # Number of code dimensions that a latent traversal shows.
TRAVERSED_IMAGE = 4  # Index of the image whose code a traversal changes. On MNIST, image 4 shows the digit 4.


def undefined_metrics(model: Autoencoder) -> dict[str, str]:
    """Names of the metrics and figures that the model does not define, each with the reason."""
    return {name: why for capability, why in model.undefined.items() for name in METRICS_OF[capability]}


@torch.no_grad()
def code_size(model: Autoencoder) -> dict[str, int]:
    """Size of one image's code.

    Returns:
        {"numbers": d} for a code of d numbers, or {"codes": L, "of": K} for L indices into a codebook of K codes.
    """
    model.eval()
    x = torch.zeros(1, *model.image, device=device_of(model))
    if isinstance(model, DiscreteAutoencoder):
        return {"codes": model.indices(x).numel(), "of": model.quantizer.codes}
    return {"numbers": flatten(model.encode(x)).shape[1]}


@torch.no_grad()
def evaluate(
    model: Autoencoder,
    images: Images,
    noisy: Mapping[str, Images] | None = None,
    *,
    further: Mapping[str, Measure] | None = None,
    batch_size: int = BATCH,
    seed: int = 0,
) -> statistics.Measured:
    """Evaluate a model on a split: reconstruction, denoising, and metrics that only some kinds of model have.

    Args:
        model: in evaluation mode, on any device.
        images: clean images of the split, uint8 (N, C, H, W), in memory or memory-mapped.
        noisy: corrupted copies of all `images`, uint8 (N, C, H, W), by the name of the corruption. Each corruption adds
            two metrics: "denoising_<name>" is the MSE between reconstructions and clean images, and "copying_<name>"
            is the MSE between reconstructions and corrupted images.
        further: functions for more metrics, by name. The arguments of a function are the reconstructions and the images
            of a batch, both floats (B, C, H, W) in [0, 1]. The function returns a value for each image, (B,).
        batch_size: images per batch, at least 1.
        seed: seed of the random codes z ~ q(z|x).

    Returns:
        The metrics by name: "mse", "psnr" (in dB), "ssim", the metrics of `noisy` and `further`, and metrics of the
        model's kind, such as "neg_elbo" (in nats). Metrics that the model does not define are left out.
        `aelab.report.metrics.METRICS` describes each metric. The attribute `images` of the result has the value of each
        image, float32 (N,), for each metric that is a mean over images.

    Raises:
        UserError: `model` is not an `Autoencoder`, or `images` are not uint8 images of the model's size. Another cause
            is that `noisy` is not a mapping, or that a copy differs from `images` in shape or type.
    """
    check_model(model)
    if noisy is not None and not isinstance(noisy, Mapping):
        msg = f"`noisy` must map names to corrupted copies, such as {{'masking': images}}; got {next(described(noisy))}"
        raise UserError(msg)
    check_stored(images, model.image, "images to evaluate on")
    copies = {name: Pairs(corrupted, images) for name, corrupted in (noisy or {}).items()}
    for name, pairs in copies.items():
        pairs.check(model.image, f"copies under {name}")
    device = device_of(model)
    undefined = undefined_metrics(model)
    measures = {"mse": mse, "psnr": image_quality.psnr, "ssim": image_quality.ssim, **(further or {})}
    wanted = {name: measure for name, measure in measures.items() if name not in undefined}
    generator = torch.Generator(device).manual_seed(seed)
    with model.unchecked():
        with part("images"):
            values = _means(model, Pairs.of(images), wanted, batch_size)
        for name, pairs in copies.items():
            with part(name):
                denoised, copied = {f"denoising_{name}": mse}, {f"copying_{name}": mse}
                values |= _means(model, pairs, denoised, batch_size, copied)
        with part("bound"):
            values |= model.measure(batches(images, batch_size, device), generator)
    return values.renamed(dict.fromkeys(undefined))


def importance_weighted(
    model: Autoencoder,
    images: Images,
    values: Mapping[str, float],
    *,
    samples: int,
    count: int,
    batch_size: int = BATCH,
    seed: int = 0,
) -> statistics.Measured:
    """Importance-weighted bound on −log p(x), as a mean over a split.

    Args:
        model: in evaluation mode, on any device.
        images: uint8 (N, C, H, W).
        values: the result of `evaluate` for `images`, of which "neg_elbo" and "neg_elbo_error" are used.
        samples: k, the number of samples z for each image.
        count: maximum number of images for which the bound is computed, evenly spread. From these images, and from
            −ELBO of all N images, the mean bound over all N images is estimated.
        batch_size: number of samples z that are decoded together.
        seed: seed of the samples z ~ q(z|x).

    Returns:
        "nll", the mean bound, and its standard error "nll_error", both in nats, and "effective_samples", the median
        effective sample size. The attribute `images` of the result has "nll" and "nll_gap" (−ELBO minus the bound) of
        each image for which the bound is computed. If the model does not define the bound, the result is empty.
    """
    if "nll" in undefined_metrics(model):
        return statistics.Measured({})
    device = device_of(model)
    chosen = batches(Pairs.of(images).thinned(count).targets, batch_size, device)
    generator = torch.Generator(device).manual_seed(seed)
    bound = bounds.importance_weighted(model, chosen, samples, generator, batch_size)
    nll, error = bound.of_all(values["neg_elbo"], values["neg_elbo_error"], len(images))
    means = {"nll": nll, "nll_error": error, "effective_samples": bound.effective.median().item()}
    return statistics.Measured(means, {"nll": bound.nll, "nll_gap": bound.gap})


@torch.no_grad()
def denoising(
    model: Autoencoder, images: Images, noisy: Mapping[str, Images], *, count: int, batch_size: int = BATCH
) -> statistics.Measured:
    """Denoising error for each corruption: MSE between the reconstructions of corrupted images and the clean images.

    Args:
        model: in evaluation mode, on any device.
        images: clean images, uint8 (N, C, H, W).
        noisy: corrupted copies of `images` by the name of the corruption.
        count: maximum number of images, evenly spread. All corruptions use the same images.
        batch_size: images per batch.

    Returns:
        "denoising_<name>" for each corruption: the mean over the images. The attribute `images` of the result has the
        value of each image.
    """
    values = statistics.Measured({})
    for name in counted(list(noisy)):
        values |= _means(model, Pairs(noisy[name], images).thinned(count), {f"denoising_{name}": mse}, batch_size)
    return values


@torch.no_grad()
def reconstruction_error(model: Autoencoder, images: Images, batch_size: int = BATCH) -> float:
    """Mean squared error of the reconstructions of `images`, uint8 (N, C, H, W)."""
    return _means(model, Pairs.of(images), {"mse": mse}, batch_size)["mse"]


@torch.no_grad()
def identity(model: Autoencoder, *, batch_size: int = BATCH, seed: int = 0) -> dict[str, float]:
    """Measure how close the model is to the identity function, by its reconstructions of noise and photographs.

    The identity function reconstructs every image without error. A model that has learned only the data cannot
    reconstruct noise and photographs, which are unlike the data.

    Args:
        model: in evaluation mode, on any device.
        batch_size: images per batch.
        seed: seed of the noise, and of the crops of the photographs.

    Returns:
        The metrics in `metric_names.IDENTITY`: correlation and MSE between images and their reconstructions, for noise
        and for photographs.
    """
    count = min(UNLIKE, max(2, arrays.CHUNK // math.prod(model.image)))
    values: dict[str, float] = {}
    for name, make in (("noise", out_of_distribution.noise), ("photographs", out_of_distribution.photographs)):
        wanted = {f"identity_{name}": image_quality.correlation, f"unlike_{name}_mse": mse}
        values |= _means(model, Pairs.of(make(count, model.image, seed=seed)), wanted, batch_size)
    return values


def _means(
    model: Autoencoder,
    images: Pairs,
    to_clean: Mapping[str, Measure],
    size: int,
    to_seen: Mapping[str, Measure] | None = None,
) -> statistics.Measured:
    """Compute the mean of each measure over all images.

    The measures `to_clean` compare the model's output with the clean image. The measures `to_seen` compare the output
    with the model's input.
    """
    means = defaultdict[str, statistics.Mean](statistics.Mean)
    device = device_of(model)
    for x, y in images.split(size):
        seen, clean = as_float(x.to(device)), as_float(y.to(device))
        output = model.reconstruct(seen)
        for name, measure in to_clean.items():
            means[name].add(measure(output, clean))
        for name, measure in (to_seen or {}).items():
            means[name].add(measure(output, seen))
    return statistics.Measured.of(means)


@torch.no_grad()
def pictures(
    model: Autoencoder, x: Tensor, noisy: Mapping[str, Tensor], test: Images, *, batch_size: int, seed: int
) -> dict[str, Rows]:
    """Compute the images of all figures of a model.

    Args:
        model: in evaluation mode, on any device.
        x: n test images (n, C, H, W), floats in [0, 1] on the model's device.
        noisy: corrupted copies of x, by the name of the corruption in words.
        test: all test images, uint8 (N, C, H, W). Their codes set the range of each dimension in a traversal.
        batch_size: images per batch.
        seed: seed of the images that the model generates.

    Returns:
        The rows of each figure, by the figure's name. A row is a label and images in [0, 1]. The figures are
        "reconstructions", "denoising" and "interpolation". The figures "traversal" and "samples" follow, each only if
        the model defines the figure.
        A row of "reconstructions" has originals in its left half, and their reconstructions in its right half.
    """
    figures = {
        "reconstructions": _left_and_right(x, model.reconstruct(x)),
        "denoising": [("original", x)],
        "interpolation": _interpolation(model, x),
    }
    for name, corrupted in noisy.items():
        figures["denoising"] += [(name, corrupted), ("restored", model.reconstruct(corrupted))]
    if "direction" not in model.undefined and all(part.ndim == VECTORS for part in parts(model.encode(x))):
        figures["traversal"] = _traversal(model, x, test, batch_size)
    if "samples" not in model.undefined:
        samples = model.sample(SAMPLE_ROWS * len(x), torch.Generator(x.device).manual_seed(seed))
        figures["samples"] = [("", row) for row in samples.split(len(x))]
    return figures


def _left_and_right(left: Tensor, right: Tensor) -> Rows:
    """Rows with `LEFT` images of the batch `left`, then the corresponding images of the batch `right`.

    Incomplete rows are left out.
    """
    count = min(LEFT, len(left))
    pairs = zip(left.split(count), right.split(count), strict=True)
    return [("", torch.cat(pair)) for pair in pairs if len(pair[0]) == count]


def _interpolation(model: Autoencoder, x: Tensor) -> Rows:
    """Rows of images decoded on the straight line between the codes of two images: images 0 and 1, then 2 and 3, …"""
    z = model.encode(x)
    return [("", model.decode(line(z, i, i + 1, len(x)))) for i in range(0, len(x) - 1, 2)]


def _traversal(model: Autoencoder, x: Tensor, test: Images, batch_size: int) -> Rows:
    """Latent traversal: each row changes one dimension of one image's code, and keeps the other dimensions.

    The rows show the `TRAVERSED` dimensions that vary most over the test images. From left to right, the dimension of a
    row goes from −3 to +3 standard deviations around its mean over the test images.
    """
    codes = statistics.Variance()
    for batch in batches(test, batch_size, x.device):
        codes.add(flatten(model.encode(batch)))
    mean, deviation = codes.mean.float(), codes.value.sqrt().float()
    dial = torch.linspace(-3, 3, len(x), device=x.device)
    latent = model.encode(x[TRAVERSED_IMAGE % len(x)].unsqueeze(0))
    rows = []
    for dimension in deviation.argsort(descending=True)[:TRAVERSED].tolist():
        z = flatten(latent).repeat(len(x), 1)
        z[:, dimension] = mean[dimension] + dial * deviation[dimension]
        rows.append((f"z{dimension}", model.decode(unflatten(z, latent))))
    return rows
