"""Functions for notebooks answer a wrong argument with one sentence: the expected type and the actual type."""

import copy
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import aelab
from aelab.core.errors import UserError
from aelab.data.checks import check_stored
from aelab.models.base import Autoencoder
from tests.support.toys import CASES, IMAGE, PARAMETERS, squares

IMAGES = squares()
FLOATS = IMAGES / 255
BUDGET = aelab.Budget(steps=2, batch_size=8, learning_rate=0.001)

WRONG: dict[str, tuple[Any, str]] = {  # the wrong images, and the end of the message
    "a missing channel": (IMAGES[:, 0], r"an array of uint8 \(64, 8, 8\); images\[:, None\] adds the channel"),
    "channels last": (
        np.repeat(IMAGES, 3, 1).transpose(0, 2, 3, 1),
        r"an array of uint8 \(64, 8, 8, 3\); images\.transpose",
    ),
    "one image": (IMAGES[0], r"an array of uint8 \(1, 8, 8\)"),
    "rows": (IMAGES.reshape(64, -1), r"an array of uint8 \(64, 64\)"),
    "a number": (3, "an int; "),
    "nothing": (None, "a NoneType; "),
    "a tensor": (torch.from_numpy(IMAGES), r"a Tensor of uint8 \(64, 1, 8, 8\); \.numpy\(\) converts it to an array"),
    "a tensor of floats": (torch.from_numpy(FLOATS), r"a Tensor of float64 .*; \(255 \* images\)\.round\(\)"),
    "int64": (IMAGES.astype(int), r"an array of int64 \(64, 1, 8, 8\); \.astype\(np\.uint8\)"),
    "16 bits": (IMAGES.astype(np.uint16), "an array of uint16"),
    "black and white": (IMAGES > 128, "an array of bool"),
    "floats in [0, 1]": (FLOATS, r"an array of float64 .*; \(255 \* images\)\.round\(\)\.astype\(np\.uint8\)"),
    "floats to 255": (IMAGES.astype(np.float32), "an array of float32"),
    "no numbers": (np.full((8, *IMAGE), np.nan), "an array of float64"),
    "no image": (IMAGES[:0], r"an array of uint8 \(0, 1, 8, 8\); it has no image"),
    "nothing at all": (np.array([]), r"an array of float64 \(0,\)"),
    "a list": (IMAGES.tolist(), r"a list; np\.array\(…\) converts images to one array"),
    "a list of arrays": (list(IMAGES), "a list; "),
    "a tuple": ((IMAGES, IMAGES), "a tuple; "),
    "text": ("images", "a str; "),
    "objects": (np.array([IMAGES[0], None], dtype=object), r"an array of object \(2,\)"),
}
OTHER_SIZES = {
    "a larger image": (np.zeros((8, 1, 28, 28), np.uint8), r"an array of uint8 \(8, 1, 28, 28\)"),
    "colour": (np.zeros((8, 3, 8, 8), np.uint8), r"an array of uint8 \(8, 3, 8, 8\)"),
    "a narrower image": (np.zeros((8, 1, 8, 4), np.uint8), r"an array of uint8 \(8, 1, 8, 4\)"),
}


@cache
def built(variant: str = "vae") -> Autoencoder:
    """Model for calls that fail and so leave it unchanged."""
    return aelab.build(variant, IMAGE, PARAMETERS[variant], seed=0)


def model(variant: str = "vae") -> Autoencoder:
    return copy.deepcopy(built(variant))


SIZED: dict[str, Callable[[Any], object]] = {  # functions that know the size of the images
    "train": lambda images: aelab.train(built(), images, IMAGES, BUDGET, seed=0),
    "validate": lambda images: aelab.train(built(), IMAGES, images, BUDGET, seed=0),
    "inputs": lambda images: aelab.train(built(), aelab.Pairs(images, IMAGES), IMAGES, BUDGET, seed=0),
    "targets": lambda images: aelab.train(built(), aelab.Pairs(IMAGES, images), IMAGES, BUDGET, seed=0),
    "evaluate": lambda images: aelab.evaluate(built(), images),
    "copies": lambda images: aelab.evaluate(built(), IMAGES, {"masking": images}),
}
ANY_SIZE: dict[str, Callable[[Any], object]] = {
    "corrupt": lambda images: aelab.corrupt(images, "masking", 0.5, seed=0, name="a")
}


@pytest.mark.parametrize("wrong", WRONG | OTHER_SIZES)
@pytest.mark.parametrize("door", SIZED)
def test_a_door_that_knows_the_size(door: str, wrong: str) -> None:
    images, sentence = (WRONG | OTHER_SIZES)[wrong]
    with pytest.raises(UserError, match=rf"must be an array of uint8 \(N, 1, 8, 8\); got {sentence}"):
        SIZED[door](images)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("door", ANY_SIZE)
def test_a_door_for_images_of_any_size(door: str, wrong: str) -> None:
    images, sentence = WRONG[wrong]
    with pytest.raises(UserError, match=rf"must be an array of uint8 \(N, C, H, W\); got {sentence}"):
        ANY_SIZE[door](images)


@pytest.mark.parametrize("images", [IMAGES, IMAGES[::-1], np.asfortranarray(IMAGES), IMAGES[::2], IMAGES[:1]])
def test_images_that_lie_anyhow_are_taken(images: Any) -> None:
    """Arrays may run backwards, in another order, or with gaps."""
    check_stored(images, IMAGE)
    trained = model()
    aelab.train(trained, images, images, BUDGET, seed=0)
    again = model()
    aelab.train(again, images.copy(order="C"), images.copy(order="C"), BUDGET, seed=0)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in trained.state_dict().items())
    assert aelab.evaluate(trained, images).keys() >= {"mse", "neg_elbo"}


def test_images_on_disk_are_taken(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert aelab.corrupt(images, "masking", 0.5, seed=0, name="a").shape == IMAGES.shape
    aelab.train(model(), images, images, BUDGET, seed=0)


@pytest.mark.parametrize("count", [63, 65, 1, 128])
def test_pairs_have_an_input_for_each_target(count: int) -> None:
    images = np.resize(IMAGES, (count, *IMAGE))
    with pytest.raises(UserError, match=f"have {count} inputs for 64 targets"):
        aelab.train(model(), IMAGES, aelab.Pairs(images, IMAGES), BUDGET, seed=0)
    with pytest.raises(UserError, match=f"copies under masking have {count} inputs for 64 targets"):
        aelab.evaluate(model(), IMAGES, {"masking": images})


def test_copies_are_given_by_name() -> None:
    with pytest.raises(UserError, match=r"must map names to corrupted copies.*got an array of uint8 \(64, 1, 8, 8\)"):
        aelab.evaluate(model(), IMAGES, IMAGES)  # type: ignore[arg-type]


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_rows_of_stored_images_and_of_floats_become_one_picture() -> None:
    floats = torch.from_numpy(FLOATS[:4]).float().requires_grad_()
    one, two = aelab.show({"": IMAGES[:4]}), aelab.show({"a": IMAGES[:4], "b": floats})
    assert one.mode == two.mode == "RGB"
    assert two.height > 1.5 * one.height
    assert two.width > one.width  # the labels are beside the rows
    assert aelab.show({"": np.repeat(IMAGES[:4], 3, 1)}).size == one.size
    assert aelab.show({"": FLOATS[:4] * 2 - 0.5}).getextrema() == one.getextrema()


DRAWN = {"a tensor", "a tensor of floats", "floats in [0, 1]", "floats to 255", "no numbers"}


@pytest.mark.parametrize("wrong", [each for each in WRONG if each not in DRAWN])
def test_what_is_no_picture(wrong: str) -> None:
    images, _ = WRONG[wrong]
    with pytest.raises(UserError, match=r"images to show must be \(N, C, H, W\).*'x' is an?"):
        aelab.show({"x": images})


def test_rows_of_a_picture_are_alike_and_have_labels() -> None:
    with pytest.raises(UserError, match=r"of one size; got \{'a': \(64, 1, 8, 8\), 'b': \(63, 1, 8, 8\)\}"):
        aelab.show({"a": IMAGES, "b": IMAGES[1:]})
    wrong: list[Any] = [IMAGES, [IMAGES], {}]
    for unlabelled in wrong:
        with pytest.raises(UserError, match="images to show must have labels"):
            aelab.show(unlabelled)


# --- the methods of a model ------------------------------------------------------------------------------------------

SEEN = aelab.as_float(IMAGES)
UNSEEN: dict[str, tuple[Any, str]] = {
    "an array": (FLOATS, r"tensor of floats \(B, 1, 8, 8\).*got an array of float64 \(64, 1, 8, 8\)"),
    "bytes": (torch.from_numpy(IMAGES), "aelab.as_float makes from uint8.*got a Tensor of uint8"),
    "int64": (torch.from_numpy(IMAGES).long(), "got a Tensor of int64"),
    "a list": (SEEN.tolist(), "got a list"),
    "one image": (SEEN[0], r"got a Tensor of float32 \(1, 8, 8\)"),
    "a missing channel": (SEEN[:, 0], r"\(64, 8, 8\)"),
    "channels last": (SEEN.permute(0, 2, 3, 1), r"\(64, 8, 8, 1\)"),
    "a larger image": (torch.zeros(1, 1, 28, 28), r"\(1, 1, 28, 28\)"),
    "nothing": (torch.zeros(0), r"\(0,\)"),
    "floats to 255": (SEEN * 255, "values from 0 to 1; these go from 0 to 255"),
    "centred floats": (SEEN * 2 - 1, "these go from -1 to 1"),
    "no numbers": (SEEN.where(SEEN > 0, torch.nan), "some are infinite or NaN"),
    "infinite": (SEEN.where(SEEN > 0, torch.inf), "some are infinite or NaN"),
}


@pytest.mark.parametrize("unseen", UNSEEN)
@pytest.mark.parametrize("method", ["reconstruct", "encode"])
@pytest.mark.parametrize("variant", ["ae", "vae", "ladder", "vqvae", "tcvae"])
def test_a_model_sees_floats_from_0_to_1(variant: str, method: str, unseen: str) -> None:
    images, sentence = UNSEEN[unseen]
    with pytest.raises(UserError, match=sentence):
        getattr(built(variant), method)(images)


@pytest.mark.parametrize("name", CASES)
def test_what_a_model_sees_it_takes_as_it_would_without_checks(name: str) -> None:
    checking = aelab.build(name.split(maxsplit=1)[0], IMAGE, CASES[name], seed=0).eval()
    trusting = copy.deepcopy(checking)
    trusting.code_shapes = None
    with torch.no_grad():
        assert torch.equal(checking.reconstruct(SEEN), trusting.reconstruct(SEEN))
        assert torch.equal(checking.reconstruct(SEEN.double()), trusting.reconstruct(SEEN))
        assert torch.equal(checking.decode(checking.encode(SEEN)), trusting.reconstruct(SEEN))
    assert len(checking.reconstruct(SEEN[:0])) == 0
    assert torch.equal(checking.decode(z=checking.encode(x=SEEN)), trusting.reconstruct(SEEN))
    with pytest.raises(UserError, match="from 0 to 255"):
        checking.encode(x=SEEN * 255)


@pytest.mark.parametrize(
    ("variant", "codes", "sentence"),
    [
        ("vae", torch.zeros(4), r"a tensor of floats \(B, 4\).*got a Tensor of float32 \(4,\)"),
        ("vae", torch.zeros(2, 5), r"\(2, 5\)"),
        ("vae", np.zeros((2, 4)), "an array of float64"),
        ("vae", [[0.0] * 4], "a list"),
        ("vae", torch.zeros(2, 4, dtype=torch.int64), "a Tensor of int64"),
        ("vqvae", torch.zeros(2, 2, 2), r"floats \(B, 4, 2, 2\), as `encode` returns it; .* \(2, 2, 2\)"),
        ("vqvae", torch.zeros(2, 2, 2, dtype=torch.int64), "a Tensor of int64"),
        ("ladder", torch.zeros(2, 4), "a tuple of tensors"),
        ("ladder", (torch.zeros(2, 4),), "a tuple of tensors"),
    ],
)
def test_a_model_decodes_its_own_codes_alone(variant: str, codes: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        built(variant).decode(codes)


def test_a_loaded_model_checks_too_and_one_of_the_pipeline_does_not(tmp_path: Path) -> None:
    aelab.save(model(), tmp_path / "vae.safetensors")
    with pytest.raises(UserError, match="values from 0 to 1"):
        aelab.load(tmp_path / "vae.safetensors").reconstruct(SEEN * 255)
    from aelab.models import checkpoint  # noqa: PLC0415 - its `load` does not check

    checkpoint.load(tmp_path / "vae.safetensors").reconstruct(SEEN * 255)


def test_a_training_and_an_evaluation_look_at_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value would wait for the GPU."""
    checking = model("vqvae")
    seen = list[Any]()
    monkeypatch.setattr("aelab.models.doors.seen", lambda x, _: [seen.append(x), x][1])  # type: ignore[func-returns-value]
    aelab.train(checking, IMAGES, IMAGES, BUDGET, seed=0)
    aelab.evaluate(checking, IMAGES)
    assert seen == []
    assert checking.code_shapes is not None
    checking.reconstruct(SEEN)
    assert len(seen) == 1


def test_a_model_checks_again_after_a_training_that_broke_off() -> None:
    checking = model()
    checking.start_from = lambda _: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        aelab.train(checking, IMAGES, IMAGES, BUDGET, seed=0)
    with pytest.raises(UserError, match="values from 0 to 1"):
        checking.reconstruct(SEEN * 255)


# --- names and keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "image", "changes", "sentence"),
    [
        ("vea", IMAGE, {}, "model: unknown model 'vea'; there are ae, .*did you mean vae?"),
        ("VAE", IMAGE, {}, "unknown model 'VAE'"),
        ("vae", IMAGE, {"betta": 1.0}, "betta is an unknown key; known here: .*; did you mean beta?"),
        ("vae", IMAGE, {"inputs": "clean"}, "inputs is an unknown key"),
        ("vae", IMAGE, {"code": "8"}, 'code is "8": must be a valid integer'),
        ("vae", IMAGE, {"code": -1}, "code is -1: must be greater than 0"),
        ("vae", IMAGE, {"beta": float("nan")}, "beta is nan: must be a finite number"),
        ("vae", IMAGE, {"likelihood": "bernouli"}, "likelihood.name: unknown .*; did you mean bernoulli?"),
        ("vae", IMAGE, {"network": {"name": "patches", "wdith": 8}}, "network.wdith is .*; did you mean width?"),
        ("vae", IMAGE, {"network": "patches"}, "^network.width is missing"),
        ("vae", (8, 8), {}, r"the shape of the images must be \(C, H, W\).*got \(8, 8\)"),
        ("vae", (1, 8, 0), {}, r"got \(1, 8, 0\)"),
        ("vae", 64, {}, "got 64"),
        ("vae", (1, 9, 9), {}, r"vae cannot be built for images of shape \(1, 9, 9\): "),
    ],
)
def test_what_cannot_be_built_is_told_as_the_pipeline_tells_it(
    variant: str, image: Any, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        aelab.build(variant, image, PARAMETERS["vae"] | changes)


@pytest.mark.parametrize("key", ["network", "code"])
def test_a_missing_key_is_told(key: str) -> None:
    with pytest.raises(UserError, match=f"^{key} is missing$"):
        aelab.build("vae", IMAGE, {name: value for name, value in PARAMETERS["vae"].items() if name != key})


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: aelab.corrupt(IMAGES, "maskin", 0.5, seed=0, name="a"),
            "no corruption 'maskin'.*did you mean masking",
        ),
        (lambda: aelab.corrupt(IMAGES, "masking", 50, seed=0, name="a"), "the level of a corruption is 50"),
        (lambda: aelab.corrupt(IMAGES, "masking", "0.5", seed=0, name="a"), "is '0.5': must be a number"),  # type: ignore[arg-type]
        (lambda: aelab.corrupt(IMAGES, "gaussian", float("nan"), seed=0, name="a"), "is nan: must be"),
        (lambda: aelab.load_data("minst"), "no data set 'minst'.*did you mean mnist"),
        (lambda: aelab.load_data("digits", validation=1.5), "held out is 1.5: must be from 0"),
        (lambda: aelab.load_data("images"), "load_folder reads a folder"),
        (lambda: aelab.as_float(FLOATS), "uint8, from 0 to 255; these are floats already"),
        (lambda: aelab.as_float(np.array(["a"])), "an array of <U1"),
        (lambda: aelab.as_float([[1], [1, 2]]), "all of one size, in one array"),  # type: ignore[arg-type]
        (lambda: aelab.as_float(IMAGES.astype(">u2")), "an array of >u2"),
        (lambda: aelab.corrupt(IMAGES, ["masking"], 0.5, seed=0, name="a"), r"no corruption \['masking'\]"),  # type: ignore[arg-type]
        (lambda: aelab.load_data(["mnist"]), r"no data set \['mnist'\]"),  # type: ignore[arg-type]
        (lambda: aelab.evaluate(None, IMAGES), "the model must come from .*; got a NoneType"),  # type: ignore[arg-type]
        (lambda: aelab.evaluate(IMAGES, built()), "the model must .*; got an array of uint8"),  # type: ignore[arg-type]
        (lambda: aelab.train("vae", IMAGES, IMAGES, BUDGET, seed=0), "got a str"),  # type: ignore[arg-type]
        (lambda: aelab.train(built(), IMAGES, IMAGES, {"steps": 1}, seed=0), "the budget must be .*; got a dict"),  # type: ignore[arg-type]
        (lambda: aelab.prepare("gpu", threads=1), "no device 'gpu'; there are auto, cpu, cuda, mps"),
        (lambda: aelab.save(torch.nn.Linear(1, 1), "a"), "cannot save this Linear"),  # type: ignore[arg-type]
        (lambda: aelab.load("nowhere.safetensors"), r"nowhere\.safetensors"),
    ],
)
def test_other_doors(
    call: Callable[[], object], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        call()


# --- a folder of images ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(20):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 12), (10 * i, 0, 0)).save(path)
    return tmp_path / "photos"


def test_a_folder_is_a_data_set_that_a_model_learns_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    data = aelab.load_folder("~/photos", (3, 8, 8), test=0.2)
    assert data.image == (3, 8, 8)
    assert [len(each) for each in (data.train, data.validation, data.test)] == [14, 2, 4]
    assert set(data.split("train").labels.tolist()) == {0, 1}
    learner = aelab.build("ae", data.image, PARAMETERS["ae"], seed=0)
    results = aelab.train(learner, data.train, data.validation, BUDGET, seed=0)
    assert results["autoencoder"].best_step > 0
    assert len(np.unique(data.train[:, 0, 0, 0])) == 14  # no image occurs twice


def test_what_is_left_out_of_a_folder_is_named(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"left out of .*photos: broken\.png is not a PNG"):
        aelab.load_folder(folder, (1, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (folder / "broken.png").unlink()
        aelab.load_folder(folder, (1, 8, 8))


@pytest.mark.parametrize(
    ("name", "keywords", "sentence"),
    [
        ("nowhere", {}, "does not exist"),
        ("photos/a/0.png", {}, "is a file, not a folder"),
        ("empty", {}, "no image could be read"),
        ("photos", {"test": 0.01}, "has 20 images, too few: .* for test"),
        ("photos", {"test": -0.1}, "held out is -0.1: must be from 0"),
        ("photos", {"validation": 20}, "held out is 20: must be from 0"),
        ("photos", {"fit": "corp"}, "no fit 'corp'; there are crop, pad, stretch, exact; did you mean crop"),
        ("photos", {"image": (2, 8, 8)}, r"\(C, H, W\), such as .*, C being 1 or 3; got \(2, 8, 8\)"),
        ("photos", {"image": (8, 8)}, r"got \(8, 8\)"),
        ("photos", {"image": 64}, "got 64"),
    ],
)
def test_a_folder_that_is_no_data_set(folder: Path, name: str, keywords: Any, sentence: str) -> None:
    (folder.parent / "empty").mkdir()
    with pytest.raises(UserError, match=sentence):
        aelab.load_folder(folder.parent / name, **({"image": (3, 8, 8)} | keywords))
