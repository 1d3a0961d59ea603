from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from aelab.core.errors import UserError
from aelab.inference import tasks
from aelab.inference.codec import Codec
from aelab.inference.tasks import TASKS, Options, perform
from aelab.models.base import VARIANTS
from aelab.report import mlflow_writer
from tests.support.toys import IMAGE, toy_model

EMPTY = torch.zeros(0, *IMAGE)


@pytest.mark.parametrize("variant", VARIANTS.available())
def test_every_task_of_every_variant(variant: str, x: Tensor) -> None:
    model = toy_model(variant)
    width = Codec(model).width
    assert torch.equal(perform(model, "reconstruct", x[:5], Options()), model.reconstruct(x[:5]).detach())
    rows = perform(model, "encode", x[:5], Options())
    assert rows.shape == (5, width)
    decoded = perform(model, "decode", EMPTY, Options(codes=rows.flatten().tolist()))
    torch.testing.assert_close(decoded, model.reconstruct(x[:5]).detach())
    between = perform(model, "interpolate", x[:2], Options(steps=7))
    assert between.shape == (7, *IMAGE)
    torch.testing.assert_close(between[[0, -1]], model.reconstruct(x[:2]).detach())
    if "samples" not in model.undefined:
        assert perform(model, "sample", EMPTY, Options(count=3)).shape == (3, *IMAGE)


def test_the_same_seed_gives_the_same_samples_and_another_one_others() -> None:
    model = toy_model("vae")
    first, again, other = (perform(model, "sample", EMPTY, Options(seed=seed, count=120)) for seed in (1, 1, 2))
    assert first.shape == (120, *IMAGE)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("task", ["reconstruct", "encode"])
def test_nothing_is_made_of_no_images(task: str) -> None:
    for variant in ("ae", "vae", "ladder", "vqvae"):
        assert len(perform(toy_model(variant), task, EMPTY, Options())) == 0


def test_many_are_done_a_few_at_a_time(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "BATCH", 7)
    model = toy_model("vae")
    torch.testing.assert_close(perform(model, "reconstruct", x, Options()), model.reconstruct(x).detach())
    assert len(perform(model, "sample", EMPTY, Options(count=15))) == 15


@pytest.mark.parametrize(
    ("task", "images", "options", "problem"),
    [
        ("paint", EMPTY, Options(), "there is no task 'paint'; the tasks are reconstruct, encode"),
        ("reconstruct", torch.zeros(1, 3, 8, 8), Options(), r"floats \(B, 1, 8, 8\) .* \(1, 3, 8, 8\)"),
        ("reconstruct", torch.zeros(1, 8, 8), Options(), r"a Tensor of float32 \(1, 8, 8\)"),
        ("reconstruct", torch.full((1, *IMAGE), 255.0), Options(), "values from 0 to 1"),
        ("encode", torch.full((1, *IMAGE), torch.nan), Options(), "values from 0 to 1"),
        ("interpolate", torch.zeros(3, *IMAGE), Options(), "needs 2 images; got 3"),
        ("interpolate", torch.zeros(2, *IMAGE), Options(steps=1), "steps is 1: must be from 2"),
        ("sample", EMPTY, Options(count=0), "count is 0: must be from 1"),
        ("sample", EMPTY, Options(count=10**9), "must be from 1 to 10000"),
        ("decode", EMPTY, Options(codes=[0.0] * 6), "rows of 4 numbers; got 6 numbers"),
    ],
)
def test_what_cannot_be_done_is_told(task: str, images: Tensor, options: Options, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        perform(toy_model("vae"), task, images, options)


def test_a_model_without_a_prior_says_why_it_cannot_sample() -> None:
    with pytest.raises(UserError, match="cannot sample: the code is a point"):
        perform(toy_model("ae"), "sample", EMPTY, Options())


def test_mlflow_is_told_of_every_option() -> None:
    """MLflow passes a param to the model only if the signature declares it."""
    told = {spec.name: spec.default for spec in mlflow_writer.OPTIONS}
    assert told.pop("task") in TASKS
    assert told == asdict(Options(codes=[]))


def test_as_bytes() -> None:
    stored = tasks.as_bytes(torch.tensor([0.0, 0.4999 / 255, 0.5001 / 255, 1.0]).view(1, 1, 2, 2))
    assert stored.flatten().tolist() == [0, 0, 1, 255]
