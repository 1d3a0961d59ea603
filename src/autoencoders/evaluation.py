"""What a trained model is measured by, on images it has not learned from. All of it in batches, without gradients."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from autoencoders import metrics
from autoencoders.base import Autoencoder
from autoencoders.training import as_float

Rows: TypeAlias = list[tuple[str, Tensor]]
Measure: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]  # of output, clean and seen images: one value each

SAMPLE_ROWS = 6
VECTORS = 2  # the number of dimensions of a batch of codes that are vectors, not grids
TRAVERSED = 8  # dimensions of the code
TRAVERSED_IMAGE = 4  # the images are in the order of their classes: MNIST's running example, a handwritten 4


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """Stored images (N, C, H, W) as batches of floats."""
    return map(as_float, images.split(size))


@torch.no_grad()
def evaluate(
    model: Autoencoder, test: Tensor, noisy: Mapping[str, Tensor], train: Tensor, *, batch_size: int, seed: int
) -> dict[str, float]:
    """Every metric that is defined for `model`.

    Args:
        model: in evaluation mode, on the device of the images.
        test: the clean test images, uint8 (N, C, H, W).
        noisy: corrupted copies of `test`, by the name of the corruption.
        train: training images, to see how much better the model does on what it has learned from.
        batch_size: images per batch.
        seed: of the sampling in the bound.

    Returns:
        mse, psnr, ssim: of the reconstructions, means over the images.
        denoising_<corruption>: mean squared error of what the model makes of the corrupted image, to the clean one.
        copying_<corruption>: the same output's mean squared error to the corrupted image.
        train_mse: of the reconstructions of the training images.
        Whatever the variant measures itself.
    """

    def means(inputs: Tensor, references: Tensor, measures: Mapping[str, Measure]) -> dict[str, float]:
        sums = dict.fromkeys(measures, 0.0)
        for seen, clean in zip(batches(inputs, batch_size), batches(references, batch_size), strict=True):
            output = model.reconstruct(seen)
            for name, measure in measures.items():
                sums[name] += measure(output, clean, seen).double().sum().item()
        return {name: value / len(inputs) for name, value in sums.items()}

    values = means(
        test,
        test,
        {
            "mse": lambda output, clean, _: metrics.mse(output, clean),
            "psnr": lambda output, clean, _: metrics.psnr(output, clean),
            "ssim": lambda output, clean, _: metrics.ssim(output, clean),
        },
    )
    values |= means(train, train, {"train_mse": lambda output, clean, _: metrics.mse(output, clean)})
    for name, corrupted in noisy.items():
        values |= means(
            corrupted,
            test,
            {
                f"denoising_{name}": lambda output, clean, _: metrics.mse(output, clean),
                f"copying_{name}": lambda output, _, seen: metrics.mse(output, seen),
            },
        )
    generator = torch.Generator(test.device).manual_seed(seed)
    return values | model.measure(batches(test, batch_size), generator)


@torch.no_grad()
def pictures(
    model: Autoencoder, x: Tensor, noisy: Mapping[str, Tensor], test: Tensor, *, batch_size: int, seed: int
) -> dict[str, Rows]:
    """What there is to see, by figure: labelled rows of images (n, C, H, W) in [0, 1].

    Args:
        model: as for `evaluate`.
        x: n test images (n, C, H, W), floats.
        noisy: the same images corrupted, by the name of the corruption.
        test: all test images, to see over which range a code varies.
        batch_size: images per batch.
        seed: of the samples.
    """
    figures = {
        "reconstructions": [("original", x), ("reconstruction", model.reconstruct(x))],
        "denoising": [("original", x)],
        "interpolation": _interpolation(model, x),
    }
    for name, corrupted in noisy.items():
        label = name.replace("_", " ").replace("-", " ")
        figures["denoising"] += [(label, corrupted), ("restored", model.reconstruct(corrupted))]
    if "traversal" not in model.undefined and model.encode(x).ndim == VECTORS:
        figures["traversal"] = _traversal(model, x, test, batch_size)
    if "samples" not in model.undefined:
        samples = model.sample(SAMPLE_ROWS * len(x), torch.Generator(x.device).manual_seed(seed))
        figures["samples"] = [("", row) for row in samples.split(len(x))]
    return figures


def _interpolation(model: Autoencoder, x: Tensor) -> Rows:
    """Each row moves in a straight line from one image's code to the next image's."""
    z = model.encode(x)
    t = torch.linspace(0, 1, len(x), device=x.device).view(-1, *[1] * (z.ndim - 1))
    return [("", model.decode(torch.lerp(z[i : i + 1], z[i + 1 : i + 2], t))) for i in range(0, len(x) - 1, 2)]


def _traversal(model: Autoencoder, x: Tensor, test: Tensor, batch_size: int) -> Rows:
    """The dial: one dimension of one image's code turned at a time, the others left as they are.

    The dimensions are those that vary most over the test images, each turned over ±3 standard deviations.
    """
    codes = torch.cat([model.encode(batch) for batch in batches(test, batch_size)])
    mean, deviation = codes.mean(0), codes.std(0)
    dial = torch.linspace(-3, 3, len(x), device=x.device)
    rows = []
    for dimension in deviation.argsort(descending=True)[:TRAVERSED].tolist():
        z = model.encode(x[TRAVERSED_IMAGE % len(x)].unsqueeze(0)).repeat(len(x), 1)
        z[:, dimension] = mean[dimension] + dial * deviation[dimension]
        rows.append((f"z{dimension}", model.decode(z)))
    return rows
