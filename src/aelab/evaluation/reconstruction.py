"""What a trained model is measured by, on images it has not learned from. All of it in batches, without gradients."""

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
Measure: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # of the output and what it is compared with: one value each

LEFT = 5  # images in the left half of a row
SAMPLE_ROWS = 6
UNLIKE = 500  # images of each kind that are unlike the data; fewer where they are large
VECTORS = 2  # the number of dimensions of a batch of codes that are vectors, not grids
TRAVERSED = 8  # dimensions of the code
TRAVERSED_IMAGE = 4  # the images are in the order of their classes: MNIST's running example, a handwritten 4


def undefined_metrics(model: Autoencoder) -> dict[str, str]:
    """The metrics and figures that the model has no definition of, each with the reason."""
    return {name: why for capability, why in model.undefined.items() for name in METRICS_OF[capability]}


@torch.no_grad()
def code_size(model: Autoencoder) -> dict[str, int]:
    """How large the code of one image is: the `numbers` in it, or how many codes there are, each one `of` K."""
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
    """The reconstruction metrics of a split, the errors on its corrupted copies, and what the model itself measures.

    By name; `metrics.METRICS` says what each is. Of those that are means over the images, with the value of each image.

    Args:
        model: in evaluation mode, on any device.
        images: the clean images of the split.
        noisy: corrupted copies of them, by the name of the corruption, each for the metrics "denoising_<name>" and
            "copying_<name>".
        further: measures of a batch's reconstructions and images, by the name of the metric.
        batch_size: images per batch.
        seed: of the sampling in the bound.

    Raises:
        UserError: the images or their copies are no uint8 (N, C, H, W) of the model's size, or not as many.
    """
    check_model(model)
    if noisy is not None and not isinstance(noisy, Mapping):
        msg = f"corrupted copies are given by name, as {{'masking': images}}; what came is {next(described(noisy))}"
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
    """The bound on −log p(x) with k = `samples`, "nll", and its standard error; nothing where it is not defined.

    The mean over `images`, about which `evaluate` has measured `values`, estimated from `count` evenly spread ones.
    `batch_size` samples are decoded at a time. Of each of those images also "nll_gap", −ELBO minus the bound.
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
    """The errors to the clean images alone, "denoising_<name>", of as many corruptions as there are.

    They are means over `count` evenly spread images, the same under all corruptions; the rest is as for `evaluate`.
    """
    values = statistics.Measured({})
    for name in counted(list(noisy)):
        values |= _means(model, Pairs(noisy[name], images).thinned(count), {f"denoising_{name}": mse}, batch_size)
    return values


@torch.no_grad()
def reconstruction_error(model: Autoencoder, images: Images, batch_size: int = BATCH) -> float:
    """The mean squared error alone."""
    return _means(model, Pairs.of(images), {"mse": mse}, batch_size)["mse"]


@torch.no_grad()
def identity(model: Autoencoder, *, batch_size: int = BATCH, seed: int = 0) -> dict[str, float]:
    """How much of images that are unlike the data the model gives back, by name as in `metric_names.IDENTITY`.

    An identity function gives back all of them; what only knows the data gives back none.
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
    """Means over all images of the measures between the model's output and the clean image, or the one it has seen."""
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
    """What there is to see, by figure: labelled rows of images (n, C, H, W) in [0, 1]; those of "reconstructions" have
    originals in their left half and reconstructions in their right half.

    Args:
        model: as for `evaluate`.
        x: n test images (n, C, H, W), floats on the model's device.
        noisy: the same images corrupted, by the name of the corruption in words.
        test: all test images, to see over which range a code varies.
        batch_size: images per batch.
        seed: of the samples.
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
    """Rows of both, `LEFT` of the first and then `LEFT` of the second; what does not fill a row is left out."""
    count = min(LEFT, len(left))
    pairs = zip(left.split(count), right.split(count), strict=True)
    return [("", torch.cat(pair)) for pair in pairs if len(pair[0]) == count]


def _interpolation(model: Autoencoder, x: Tensor) -> Rows:
    """Each row moves in a straight line from one image's code to the next image's."""
    z = model.encode(x)
    return [("", model.decode(line(z, i, i + 1, len(x)))) for i in range(0, len(x) - 1, 2)]


def _traversal(model: Autoencoder, x: Tensor, test: Images, batch_size: int) -> Rows:
    """Latent traversal: one dimension of one image's code is turned at a time, as a dial, the others left as they are.

    The dimensions are those that vary most over the test images, each turned over ±3 standard deviations.
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
