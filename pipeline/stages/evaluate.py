"""evaluate@entry: measure the trained models of an entry on the validation and the test split, and draw figures.

An entry is a model with its settings in params.yaml. The stage train@entry has trained the entry once with each seed.
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from aelab.core import arrays, devices, disk, tensor_file
from aelab.core.progress import counted, part
from aelab.core.tensors import as_float, at_once, binarise, device_of
from aelab.data.datasets import Bytes, Labels
from aelab.data.pairs import Pairs, batches
from aelab.evaluation import (
    anomaly,
    classifier,
    density,
    disentanglement,
    fidelity,
    figures,
    geometry,
    out_of_distribution,
    per_image,
    probes,
    ranking,
    reconstruction,
    tsne,
)
from aelab.evaluation.examples import Examples
from aelab.evaluation.metric_names import (
    CLASSIFIER,
    FACTORS,
    FITTED,
    MEASURES,
    SAMPLES,
    UNIFORM,
    readable,
)
from aelab.models import checkpoint
from aelab.models.base import VARIANTS, Autoencoder
from aelab.models.discrete import DiscreteAutoencoder
from aelab.models.statistics import Measured
from pipeline.common import paths, seeds, stage
from pipeline.common.images import classes, seen
from pipeline.common.params import Params

BINARISATION = {"none": "not binarised", "static": "static binarisation", "dynamic": "dynamic binarisation"}
Images: TypeAlias = dict[str, NDArray[np.float32]]  # name of a metric or score → its value for each image
DRAWN = 3  # maximum number of noise levels that the figures show for each kind of noise


def main(name: str) -> None:
    """Measure the trained models of an entry on the validation and the test split, and draw figures.

    NAME is a key of `variants` in params.yaml, or the name of the stage, such as evaluate@vae.
    """
    name = name.rpartition("@")[2]

    def work(params: Params, provenance: stage.Provenance) -> None:
        device = devices.prepare(params.training.device, params.training.threads)
        provenance |= {"device": device.type, "hardware": devices.describe(device)}
        for split in ("train", "validation", "test"):
            disk.check(paths.CLEAN / split)
        for split in ("validation", "test"):
            disk.check(paths.NOISY / split)
        results = seeds.for_each_seed(evaluate, params, name, timed=False)
        folder = paths.EVALUATION / name
        disk.write_json(folder / "metrics.json", {seed: result for seed, (result, *_) in results.items()})
        finished = {seed: of_images for seed, (result, *of_images) in results.items() if result["metrics"]}
        count = len(arrays.read(paths.images(paths.CLEAN, "test")))
        per_image.write(folder / per_image.FILE, {seed: images for seed, (images, _) in finished.items()}, count)
        if paths.ANOMALIES.exists():
            scores = {seed: each for seed, (_, each) in finished.items()}
            per_image.write(folder / per_image.SCORES, scores, count + len(arrays.read(paths.ANOMALIES)))

    stage.run(work, paths.PROVENANCE / "evaluate" / f"{name}.json")


def evaluate(params: Params, name: str, seed: int) -> tuple[dict[str, Any], Images, Images]:
    """Evaluate the model that was trained with one seed, and draw its figures.

    Returns:
        Three values: the seed's section of metrics.json; metrics for each test image; and anomaly scores for each test
        image and each anomalous image. If the training diverged, all metrics are absent, and the status names the step.
    """
    variant = VARIANTS.find(params.entry(name).model)
    about: dict[str, Any] = {"about": (variant.__doc__ or "").strip(), "floor": variant.floor}
    outcome = disk.read_json(paths.MODELS / name / f"seed{seed}.json")
    diverged = [
        f"{phase} diverged at step {end['diverged_at_step']}: {end['cause']}"
        for phase, end in outcome.items()
        if end["diverged_at_step"]
    ]
    if diverged:
        nothing: dict[str, Any] = {"pixels": None, "metrics": {}, "undefined": {}, "symptoms": []}
        return {"status": diverged[0], **about, **nothing}, {}, {}
    device = devices.prepare(params.training.device, params.training.threads)
    size = at_once(params.evaluation.batch_size, device)
    params = params.model_copy(update={"evaluation": params.evaluation.model_copy(update={"batch_size": size})})
    weights = paths.MODELS / name / f"seed{seed}.safetensors"
    model = checkpoint.load(weights, device)
    undefined, scores = _undefined(model), dict[str, Tensor]()
    validation = arrays.read(paths.images(paths.CLEAN, "validation"))
    with part(f"{name}-seed{seed}"):
        measured = {  # validation metrics help to choose settings; the report shows test metrics
            "validation": _reconstruction(params, model, validation, "validation", {}),
            "test": _test(params, model, undefined, len(validation)),
        }
        if "generalisation" not in undefined:
            unseen, learned = measured["validation"]["mse"], measured["test"]["train_mse"]  # errors on clean images
            measured["test"]["generalisation"] = unseen / learned if learned else math.nan
        with part("scores of validation images"):
            known = measured["validation"].images
            table = anomaly.reference(anomaly.of_split(model, validation, known, **_settings(params)))
            about_weights = {"weights": disk.digest(weights)}
            disk.write_json(paths.EVALUATION / name / f"seed{seed}" / per_image.VALIDATION, about_weights | table)
        if paths.ANOMALIES.exists():
            with part("anomalies"):
                scores = _anomalies(params, model, measured["test"])
        if "reconstructions" not in undefined:
            with part("figures"):
                _draw(params, model, name, seed)
    infinite = {
        name: f"it is {value}"
        for values in measured.values()
        for name, value in values.items()
        if not math.isfinite(value)
    }
    finite = {
        split: {name: value for name, value in values.items() if name not in infinite}
        for split, values in measured.items()
    }
    result = {
        "status": "finished",
        **about,
        "pixels": model.pixels and f"{model.pixels}, {BINARISATION[params.dataset.binarisation]}",
        "code": reconstruction.code_size(model),
        "training_images": len(arrays.read(paths.images(paths.CLEAN, "train"))),
        "metrics": finite,
        "undefined": undefined | infinite,
        "symptoms": model.symptoms(measured["validation"]),
    }
    images = {name: values for name, values in measured["test"].images.items() if name not in infinite}
    return result, _arrays(images), _arrays(scores)


def _arrays(of_images: Mapping[str, Tensor]) -> Images:
    return {name: values.cpu().numpy() for name, values in of_images.items()}


def _undefined(model: Autoencoder) -> dict[str, str]:
    """Return the reason for each metric or figure that is undefined for the model or for the data set."""
    of_images = disk.read_json(paths.CLASSIFIER / "metrics.json")["undefined"]
    of_model = reconstruction.undefined_metrics(model)
    if why := density.unfitted(model):
        of_model |= dict.fromkeys(FITTED, why)
    if not paths.factors("test").exists():
        of_model |= dict.fromkeys(FACTORS, "the factors of these images are not known")
    if paths.ANOMALIES.exists():
        lacking = anomaly.undefined(model).items()
        of_model |= {f"{measure}_{score}": why for measure in MEASURES for score, why in lacking}
    samples = {name: of_model[name] for name in SAMPLES if name in of_model}  # listed before the model's other reasons
    return {name: why for name, why in of_images.items() if name not in CLASSIFIER} | samples | of_model


def _reconstruction(
    params: Params, model: Autoencoder, images: Bytes, split: str, further: Mapping[str, reconstruction.Measure]
) -> Measured:
    """Return the reconstruction metrics of a split, and the `further` metrics.

    Metrics under the reference corruption of params.yaml get short names, such as denoising_mse.
    """
    reference = params.corruption.reference.name
    noisy = {reference: arrays.read(paths.noisy(reference, split))}
    with part(f"{split} split"):
        values = reconstruction.evaluate(model, images, noisy, further=further, **_settings(params))
    return values.renamed({f"{what}_{reference}": f"{what}_mse" for what in ("denoising", "copying")})


def _test(params: Params, model: Autoencoder, undefined: Mapping[str, str], unseen: int) -> Measured:
    """Return all metrics on the test split, and the reconstruction error on training images.

    The validation split has `unseen` images. The error on training images is a mean over the same number of images, so
    that this error is comparable with the error on validation images.
    """
    images, train = seen(params, "test"), seen(params, "train")
    settings, size = params.evaluation, params.evaluation.batch_size
    further: dict[str, reconstruction.Measure] = {}
    if "class_kept" not in undefined:
        seen_by = classifier.load(paths.CLASSIFIER / "model.safetensors", device_of(model))
        further["class_kept"] = partial(classifier.class_kept, seen_by)
    values = _reconstruction(params, model, images, "test", further)
    with part("noise", "evaluation.noisy_images"):
        noisy, count = _noisy(params), settings.noisy_images
        values |= reconstruction.denoising(model, images, noisy, count=count, batch_size=size)
    values |= reconstruction.identity(model, **_settings(params))
    with part("importance-weighted bound", "evaluation.importance.samples"):
        wanted = {"samples": settings.importance.samples, "count": settings.importance.images}
        values |= reconstruction.importance_weighted(model, images, values, **wanted, **_settings(params))
    if "train_mse" not in undefined:
        with part("training images"):
            learned_from = Pairs.of(train).thinned(unseen).targets
            values["train_mse"] = reconstruction.reconstruction_error(model, learned_from, size)
    values["parameters"] = float(sum(parameter.numel() for parameter in model.parameters()))
    with part("geometry of the code"):
        values |= geometry.measure(model, images, train, size)
    if "mig" not in undefined:
        with part("known factors"):
            values |= disentanglement.measure(model, images, arrays.read(paths.factors("test")), size)
    if "probe_accuracy" not in undefined:
        splits = {split: Pairs(seen(params, split), classes(split)) for split in ("train", "validation", "test")}
        splits["train"] = splits["train"].thinned(settings.probe_images)
        with part("probes", "evaluation.probe_images"):
            values |= probes.accuracies(model, **splits, batch_size=size)
    if not undefined.keys() >= {"frechet", "frechet_fitted", "frechet_uniform"}:
        with part("samples", "evaluation.samples"):
            values |= _samples(params, model, train, undefined)
    return values


@torch.no_grad()
def _samples(
    params: Params, model: Autoencoder, train: reconstruction.Images, undefined: Mapping[str, str]
) -> dict[str, float]:
    """Compare generated images with test images, by the classifier's features, and return the metrics.

    The model decodes up to three sets of codes. The codes are drawn from the model's prior, from a density fitted to
    the codes of training images, or uniformly from the codebook. The classifier's file has the features of N test
    images, and each set has N codes.
    """
    device, settings = device_of(model), params.evaluation
    features, _ = tensor_file.read(paths.CLASSIFIER / "features.safetensors")
    images = features["test"]
    seen_by = classifier.load(paths.CLASSIFIER / "model.safetensors", device)
    generator = torch.Generator(device).manual_seed(settings.seed)
    count, size, sets = len(images), settings.batch_size, dict[tuple[str, ...], Iterable[Tensor]]()
    if "frechet" not in undefined:
        sets[SAMPLES] = (model.sample(len(rows), generator) for rows in counted(images.split(size)))
    if "frechet_fitted" not in undefined:
        codes = density.fitted(model, train, count, **_settings(params))
        sets[FITTED] = map(model.decode, counted(codes.split(size)))
    if "frechet_uniform" not in undefined and isinstance(model, DiscreteAutoencoder):
        indices = density.uniform(model, count, seed=settings.seed)
        sets[UNIFORM] = map(model.decode_indices, counted(indices.split(size)))
    values = dict[str, float]()
    for names, drawn in sets.items():
        if params.dataset.binarisation != "none":  # the test images are black and white, so the samples must be, too
            drawn = (binarise(generator, means)[0] for means in drawn)  # noqa: PLW2901
        compared = fidelity.compare(classifier.features(seen_by, drawn), images, features["radii"])
        values |= zip(names, compared.values(), strict=True)
    return values


def _anomalies(params: Params, model: Autoencoder, values: Measured) -> dict[str, Tensor]:
    """Return the anomaly scores of the test images, followed by the scores of the anomalies.

    Add metrics to `values` that say how well these scores separate anomalies from test images.
    """
    test, strange = seen(params, "test"), arrays.read(paths.ANOMALIES)
    train = Pairs.of(seen(params, "train")).thinned(params.evaluation.probe_images).targets
    scores = out_of_distribution.of_two(model, test, strange, train, known=values.images, **_settings(params))
    which = np.arange(len(test) + len(strange)) >= len(test)
    values |= ranking.measures({name: each.numpy() for name, each in scores.items()}, which)
    return scores


def _settings(params: Params) -> dict[str, int]:
    return {"batch_size": params.evaluation.batch_size, "seed": params.evaluation.seed}


def _noisy(params: Params) -> dict[str, reconstruction.Images]:
    """Return the corrupted test images, as arrays on disk, by the name of the corruption."""
    names = [f"{kind}-{level}" for kind, level in sorted(params.corruption.tested)]
    return {name: arrays.read(paths.noisy(name)) for name in names}


def _drawn(params: Params) -> list[str]:
    """Return the names of the corruptions that the figures show.

    For each kind of noise, the figures show the highest level and evenly spaced lower levels.
    """
    levels = {kind: sorted(set(each)) for kind, each in params.corruption.test.items()}
    return [
        f"{kind}-{level}" for kind, each in levels.items() for level in each[:: -math.ceil(len(each) / DRAWN)][::-1]
    ]


def _draw(params: Params, model: Autoencoder, name: str, seed: int) -> None:
    """Draw the figures of one seed, and write example images and statistics to a file.

    From such files, the report draws the figures that compare all entries.
    """
    folder = paths.EVALUATION / name / f"seed{seed}"
    drawn = _examples(params, model, mapped=seed == params.seeds_of(name)[0])  # the report shows the first seed's map
    for figure, rows in drawn.figures.items():
        halves = ("originals", "reconstructions") if figure == "reconstructions" else None
        figures.images(rows, folder / f"{figure}.png", halves)
    for statistic, values in drawn.statistics.items():
        draw = {
            "kl_per_dimension": figures.kl_per_dimension,
            "code_usage": figures.code_usage,
            "code_map": figures.code_map,
        }[statistic]
        draw(values, folder / f"{statistic}.png")
    drawn.write(folder / "examples.safetensors")


@torch.no_grad()
def _examples(params: Params, model: Autoencoder, *, mapped: bool) -> Examples:
    """Return example images and statistics of a model.

    The images are test images of each class, corrupted copies of these images, and the model's reconstructions. If
    `mapped`, the statistics include a map of the codes in two dimensions (t-SNE).
    """
    device, test = device_of(model), arrays.read(paths.images(paths.CLEAN, "test"))
    shown = _of_each_class(arrays.read(paths.labels("test")), params.evaluation.images)

    def floats(images: reconstruction.Images) -> Tensor:
        return as_float(images[shown]).to(device)

    x, corrupted = floats(test), floats(arrays.read(paths.noisy(params.corruption.reference.name)))
    images = {"original": x, "reconstruction": model.reconstruct(x)}
    images |= {"corrupted": corrupted, "restored": model.reconstruct(corrupted)}
    noisy = {readable(name): floats(arrays.read(paths.noisy(name))) for name in _drawn(params)}
    pictures = reconstruction.pictures(model, x, noisy, test, **_settings(params))
    test_batches = partial(batches, test, params.evaluation.batch_size, device)
    statistics = dict[str, Tensor]()
    if "kl_per_dimension" not in model.undefined:
        statistics["kl_per_dimension"] = model.kl_per_dimension(test_batches())
    if "codebook" not in model.undefined:
        statistics["code_usage"] = model.code_counts(test_batches())
    if mapped:
        found = tsne.code_map(model, Pairs(seen(params, "test"), classes("test")), params.evaluation.batch_size)
        statistics |= {} if found is None else {"code_map": torch.from_numpy(found)}
    return Examples(
        {name: each.cpu().numpy() for name, each in images.items()},
        {figure: [(label, row.cpu().numpy()) for label, row in rows] for figure, rows in pictures.items()},
        {name: each.cpu().numpy() for name, each in statistics.items()},
    )


def _of_each_class(labels: Labels, count: int) -> list[int]:
    """Return the indices of `count` images: one image of each class, then another image of each class, and so on.

    The chosen images of a class are spread evenly over all images of this class.
    """
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    turns = math.ceil(count / len(classes))
    order = [
        int(members[len(members) * turn // turns])
        for turn in range(turns)
        for members in classes
        if turn < len(members)
    ]
    return order[:count]


if __name__ == "__main__":
    typer.run(main)
