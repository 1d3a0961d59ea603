"""classify: train an image classifier. The Fréchet distance compares images by the features of this classifier.

The stage writes the classifier, its features of the test images, and a file of metrics. This file also has the reason
for each undefined metric, and reference values for likelihoods, such as the size of the test images as PNG files.
"""

import numpy as np
import torch
import typer

from aelab.core import devices, disk, tensor_file
from aelab.core.progress import part
from aelab.core.settings import Budget, TrainingOptions
from aelab.core.tensors import at_once
from aelab.data import pairs
from aelab.data.pairs import Pairs
from aelab.evaluation import classifier, fidelity, lossless
from aelab.evaluation.classifier import Classifier
from aelab.evaluation.metric_names import CLASSIFIED, CLASSIFIER, FITTED, REPRESENTATION, SAMPLES, UNIFORM
from aelab.training.loop import fit
from aelab.training.state import PhaseResult
from pipeline.common import paths, stage
from pipeline.common.images import classes, seen
from pipeline.common.params import Params

FEATURES = (*SAMPLES, *FITTED, *UNIFORM, *CLASSIFIED, *CLASSIFIER)  # metrics that need the classifier's features


def work(params: Params, provenance: stage.Provenance) -> None:
    """Write the classifier, its features of the test images, its metrics, and the reasons for undefined metrics."""
    device = devices.prepare(params.training.device, params.training.threads)
    provenance |= {"device": device.type, "hardware": devices.describe(device)}
    for split in ("train", "validation", "test"):
        disk.check(paths.CLEAN / split)
    train, validation, test = (Pairs(seen(params, split), classes(split)) for split in ("train", "validation", "test"))
    paths.CLASSIFIER.mkdir(parents=True, exist_ok=True)
    options, settings = TrainingOptions(mode=params.training.mode), params.evaluation
    with part("lossless files"):
        floors = lossless.floors(test.inputs, settings.samples)

    def write(metrics: dict[str, float], undefined: dict[str, str]) -> None:
        content = {"metrics": metrics, "floors": floors, "undefined": undefined}
        disk.write_json(paths.CLASSIFIER / "metrics.json", content)

    if len(np.unique(train.targets)) == 1:
        reason = "all training images are of one class: there is nothing to classify"
        return write({}, dict.fromkeys((*REPRESENTATION, *FEATURES), reason))
    if len(test.targets) < fidelity.FEWEST:
        return write({}, dict.fromkeys(FEATURES, f"there are fewer than {fidelity.FEWEST} test images"))
    outputs = 1 + max(int(each.targets.max()) for each in (train, validation, test))
    model, result = learn(
        train, validation, outputs, settings.classifier, seed=settings.seed, options=options, device=device
    )
    if result.diverged_at_step:
        reason = f"the classifier diverged at step {result.diverged_at_step}: {result.cause}"
        return write({}, dict.fromkeys(FEATURES, reason))
    count, size = min(settings.samples, len(test.targets)), at_once(settings.batch_size, device)
    with part("features of images"):
        tested, learned_from = (
            classifier.features(model, pairs.batches(each.thinned(count).inputs, size, device))
            for each in (test, train)
        )
    classifier.save(model, paths.CLASSIFIER / "model.safetensors")
    tensor_file.write(paths.CLASSIFIER / "features.safetensors", {"test": tested, "radii": fidelity.radii(tested)}, {})
    floor = fidelity.frechet(learned_from, tested)
    return write({"classifier_accuracy": classifier.accuracy(model, test), "frechet_floor": floor}, {})


def learn(
    images: Pairs,
    validation: Pairs,
    classes: int,
    budget: Budget,
    *,
    seed: int,
    options: TrainingOptions,
    device: torch.device,
) -> tuple[Classifier, PhaseResult]:
    """Train a classifier, and return the classifier and the result of the training.

    The classifier has the weights with the lowest validation loss.

    Args:
        images: training images, uint8 (N, C, H, W), and their classes, int64 (N,), from 0 to `classes` − 1.
        validation: validation images and their classes.
        classes: the number of classes.
        budget: steps, batch size and learning rate.
        seed: random seed of the weights and of the order of the data.
        options: mode of execution on a GPU, number of validations, and number of images in each validation.
        device: the device to train on.
    """
    torch.manual_seed(seed)
    channels, height, width = images.inputs.shape[1:]
    model = Classifier((channels, height, width), classes).to(device)
    held_out = validation.thinned(options.validation_images)
    return model, fit(model, images, held_out, budget, seed=seed, options=options, phase="classifier")


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, paths.PROVENANCE / "classify.json"))
