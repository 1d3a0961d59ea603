"""The classifier and the stage that trains it, also for images of a single class."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aelab.core import arrays, disk
from aelab.core.errors import UserError
from aelab.core.settings import Budget, TrainingOptions
from aelab.core.tensor_file import read
from aelab.core.tensors import as_float
from aelab.evaluation import classifier, fidelity
from aelab.evaluation.classifier import Classifier
from aelab.evaluation.metric_names import CLASSIFIED, CLASSIFIER, FACTORS, FITTED, REPRESENTATION, SAMPLES, UNIFORM
from aelab.models.checkpoint import build
from aelab.training.state import PhaseResult
from pipeline.common import params, paths
from pipeline.stages import classify, evaluate
from tests.support.parameters import with_value
from tests.support.toys import CLASSES, IMAGE, PARAMETERS, quadrants

CPU = torch.device("cpu")
BUDGET = Budget(steps=60, batch_size=20, learning_rate=0.01)
OF_CLASSES = {*REPRESENTATION, *SAMPLES, *FITTED, *UNIFORM, *CLASSIFIED}  # metrics that need images of several classes


def trained(seed: int = 0) -> Classifier:
    return classify.learn(
        quadrants(200, 0), quadrants(60, 1), CLASSES, BUDGET, seed=seed, options=TrainingOptions(), device=CPU
    )[0]


def test_it_learns_the_classes_and_its_features_tell_them_apart() -> None:
    model, test = trained(), quadrants(100, 2)
    assert classifier.accuracy(model, test) == 100
    assert classifier.accuracy(model, quadrants(100, 2, shuffled=True)) < 50
    features = classifier.features(model, as_float(test.inputs).split(30))
    assert features.shape == (100, classifier.FEATURES)
    means = torch.stack([features[torch.from_numpy(test.targets) == label].mean(0) for label in range(CLASSES)])
    assert torch.cdist(features, means).argmin(1).tolist() == test.targets.tolist()


def test_a_reconstruction_keeps_the_class_that_the_classifier_sees_in_the_image() -> None:
    """Only the classifier's opinion counts, not the true class. Rolling an image by half its side changes its class."""
    model, x = trained(), as_float(quadrants(100, 2).inputs)

    def kept(reconstruct: Callable[[torch.Tensor], torch.Tensor], seen_by: Classifier = model) -> float:
        return float(classifier.class_kept(seen_by, reconstruct(x), x).mean())

    def moved(x: torch.Tensor) -> torch.Tensor:
        return x.roll(4, 3)

    assert kept(lambda x: x) == 100
    assert kept(lambda x: x, Classifier(IMAGE, CLASSES)) == 100  # an untrained classifier agrees with itself, too
    assert kept(lambda x: 0.99 * x) == 100
    assert kept(moved) == 0
    assert kept(lambda x: torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) % 2 == 0, x, moved(x))) == 50
    assert kept(torch.zeros_like) == 25  # all black images are in the same one of four equally frequent classes


def test_the_same_seed_gives_the_same_bits() -> None:
    first, again, other = (trained(seed).embedding.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("image", [(1, 8, 8), (3, 9, 13), (3, 130, 50)])
def test_images_may_be_of_any_size(image: tuple[int, int, int]) -> None:
    model = Classifier(image, 5)
    assert model(torch.zeros(2, *image)).shape == (2, 5)
    assert sum(each.numel() for each in model.parameters()) < 300_000


def test_it_is_read_as_it_was_written(tmp_path: Path, x: torch.Tensor) -> None:
    model, path = trained(), tmp_path / "model.safetensors"
    classifier.save(model, path)
    assert torch.equal(classifier.load(path, CPU)(x), model(x))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a classifier of this project"):
        classifier.load(path, CPU)


def classified(
    folder: Path, labels: int, monkeypatch: pytest.MonkeyPatch, tested: int = 40
) -> dict[str, dict[str, Any]]:
    """Run the stage for images of `labels` classes, and return its metrics."""
    monkeypatch.chdir(folder)
    for seed, (split, count) in enumerate({"train": 200, "validation": 40, "test": tested}.items()):
        images, found = quadrants(count, seed)
        arrays.write(paths.images(paths.CLEAN, split), images.shape, [images])
        arrays.write(paths.labels(split), found.shape, [found % labels])
        disk.seal(paths.CLEAN / split)
    checked = params.check(with_value("evaluation.classifier", BUDGET.model_dump()), variants=False)
    classify.work(checked, {})
    written: dict[str, dict[str, Any]] = disk.read_json(paths.CLASSIFIER / "metrics.json")
    assert set(CLASSIFIER) == written["metrics"].keys() | written["undefined"].keys() - OF_CLASSES
    return written


def test_the_stage_measures_the_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = classified(tmp_path, CLASSES, monkeypatch)
    assert written["metrics"]["classifier_accuracy"] == 100
    assert written["undefined"] == {}
    features, _ = read(paths.CLASSIFIER / "features.safetensors")
    assert features["test"].shape == (40, classifier.FEATURES)
    assert torch.equal(features["radii"], fidelity.radii(features["test"]))
    model = build("vae", IMAGE, PARAMETERS["vae"]).eval()
    assert OF_CLASSES & evaluate._undefined(model).keys() == set(UNIFORM)


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_images_of_one_class_are_a_reason_and_no_failure(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = classified(tmp_path, 1, monkeypatch)
    assert written["metrics"] == {}
    undefined = evaluate._undefined(build(name, IMAGE, PARAMETERS[name]))
    assert undefined.keys() >= OF_CLASSES
    assert not set(CLASSIFIER) & undefined.keys()
    assert "one class" in undefined["probe_accuracy"]
    assert ("one class" if name == "vae" else "no prior") in undefined["frechet"]


def test_too_few_test_images_leave_the_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undefined = classified(tmp_path, CLASSES, monkeypatch, tested=3)["undefined"]
    assert undefined["sample_recall"] == "there are fewer than 4 test images"
    assert "probe_accuracy" not in undefined


def test_a_classifier_that_diverges_leaves_the_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverged = Classifier(IMAGE, CLASSES), PhaseResult(diverged_at_step=3, cause="loss is nan")
    monkeypatch.setattr(classify, "learn", lambda *_, **__: diverged)
    undefined = classified(tmp_path, CLASSES, monkeypatch)["undefined"]
    assert undefined["frechet"] == "the classifier diverged at step 3: loss is nan"
    assert "probe_accuracy" not in undefined
    assert np.load(paths.labels("train")).max() == CLASSES - 1


@pytest.mark.parametrize(
    ("name", "measured"),
    [("ae", FITTED), ("vae", (*SAMPLES, *FITTED)), ("vqvae", (*SAMPLES, *UNIFORM)), ("ladder", SAMPLES)],
)
def test_the_entries_measure_samples_against_the_features(
    name: str, measured: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples of the prior, a fitted density and a uniform prior are measured, or undefined with a reason."""
    classified(tmp_path, CLASSES, monkeypatch)
    checked = params.check(with_value("evaluation.classifier", BUDGET.model_dump()), variants=False)
    model = build(name, IMAGE, PARAMETERS[name], seed=0).eval()
    undefined, train = evaluate._undefined(model), quadrants(200, 0).inputs
    values = evaluate._samples(checked, model, train, undefined)
    assert values.keys() == set(measured) == {*SAMPLES, *FITTED, *UNIFORM} - undefined.keys()
    assert values == evaluate._samples(checked, model, train, undefined)


def test_factors_are_measured_where_they_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classified(tmp_path, CLASSES, monkeypatch)
    models = [build(name, IMAGE, PARAMETERS[name]).eval() for name in ("ae", "vqvae")]
    assert [evaluate._undefined(model)["mig"] for model in models] == ["the factors of these images are not known"] * 2
    arrays.write(paths.factors("test"), (40, 2), [np.zeros((40, 2))])
    assert not set(FACTORS) & evaluate._undefined(models[0]).keys()
    assert "no direction" in evaluate._undefined(models[1])["dci"]
