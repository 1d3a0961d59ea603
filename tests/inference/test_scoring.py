"""Command `aelab score`: order of the table, percentiles among validation images, scale of the maps, and the sheet."""

import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from aelab.core import disk
from aelab.core.errors import UserError
from aelab.core.tensors import as_float
from aelab.evaluation import anomaly, per_image
from aelab.evaluation.image_quality import mse
from aelab.inference import tasks
from aelab.inference.image_files import png
from aelab.inference.tasks import Options, perform
from aelab.models.base import VARIANTS
from tests.inference.conftest import Call, pixels
from tests.support.toys import IMAGE, squares, toy_model

SCORES = {
    "ae": ["mse"],
    "vae": ["mse", "neg_elbo", "rate"],
    "vqvae": ["mse", "neg_elbo", "rate", "codebook_distance"],
}
PERCENT = "_percentile"


def strange(folder: Path) -> None:
    """Add an image of noise to the three squares."""
    noise = np.random.default_rng(0).integers(0, 256, IMAGE, np.uint8)
    (folder / "digits/noise.png").write_bytes(png(noise))


def evaluated(folder: Path, variant: str) -> None:
    """Write the scores that the stage evaluate writes for a model."""
    weights = folder / f"models/{variant}/seed0.safetensors"
    found = anomaly.of_split(toy_model(variant), squares())
    place = folder / f"evaluation/{variant}/seed0" / per_image.VALIDATION
    disk.write_json(place, {"weights": disk.digest(weights)} | anomaly.reference(found))


@pytest.mark.parametrize("variant", SCORES)
def test_the_strangest_come_first(variant: str, call: Call, here: Path) -> None:
    strange(here)
    code, out, err = call("score", "digits", "scores.csv", "-m", f"models/{variant}")
    assert (code, out) == (0, "")
    assert "no percentiles: this model has no file with the scores of its validation images; the pip" in err
    assert err.endswith("scores of 4 images, by mse: scores.csv\n")
    table = pd.read_csv("scores.csv")
    assert list(table) == ["image", *SCORES[variant]]
    assert set(table["image"]) == {"0.png", "1.png", "2.png", "noise.png"}
    assert table["mse"].is_monotonic_decreasing
    x = as_float(np.stack([pixels(f"digits/{name}")[None] for name in table["image"]]))
    with torch.no_grad():
        expected = mse(toy_model(variant).reconstruct(x), x)
    np.testing.assert_allclose(table["mse"], expected, rtol=1e-5)


def test_the_order_goes_by_another_score(call: Call, here: Path) -> None:
    strange(here)
    assert call("score", "digits", "scores.parquet", "-m", "models/vqvae", "--by", "rate")[0] == 0
    assert pd.read_parquet("scores.parquet")["rate"].is_monotonic_decreasing


def test_a_score_stands_among_those_of_validation_images(call: Call, here: Path, models: Path) -> None:
    (here / "models").unlink()
    (here / "models").mkdir()
    (here / "models/vae").mkdir()
    (here / "models/vae/seed0.safetensors").write_bytes((models / "vae/seed0.safetensors").read_bytes())
    strange(here)
    evaluated(here, "vae")
    code, out, err = call("score", "digits", "-", "-m", "models/vae", "--quiet")
    assert (code, err) == (0, "")
    table = pd.read_csv(io.StringIO(out))
    assert list(table) == ["image", *(f"{name}{end}" for name in SCORES["vae"] for end in ("", PERCENT))]
    validation = anomaly.of_split(toy_model("vae"), squares())["mse"].numpy()
    lower = [100 * float(np.mean(validation < value * (1 - 1e-4))) for value in table["mse"]]
    np.testing.assert_allclose(table[f"mse{PERCENT}"], lower, atol=100 / 64 + 0.1)
    assert all(re.fullmatch(r"\d+\.\d", cell) for cell in pd.read_csv(io.StringIO(out), dtype="str")[f"mse{PERCENT}"])
    # Scores of other weights are not used.
    place = here / "evaluation/vae/seed0" / per_image.VALIDATION
    disk.write_json(place, json.loads(place.read_text()) | {"weights": "0" * 64})
    code, out, err = call("score", "digits", "-", "-m", "models/vae")
    assert code == 0
    assert "no percentiles" in err
    assert PERCENT not in out


def test_all_maps_share_a_scale(call: Call, here: Path) -> None:
    from matplotlib import colormaps  # noqa: PLC0415

    strange(here)
    assert call("score", "digits", "scores.csv", "-m", "models/ae", "--maps", "maps")[0] == 0
    model, errors, seen = toy_model("ae"), {}, {}
    for name in ("0.png", "noise.png"):
        x = as_float(pixels(f"digits/{name}")[None, None])
        with torch.no_grad():
            errors[name] = (x - model.reconstruct(x)).abs()[0, 0].numpy()
        seen[name] = pixels(f"maps/{name}")
        assert seen[name].shape == (8, 24, 3)
        np.testing.assert_array_equal(seen[name][:, :8, 0], pixels(f"digits/{name}"))
    largest = max(float(each.max()) for each in errors.values())
    for name, error in errors.items():
        expected = colormaps["inferno"](error / largest, bytes=True)[..., :3].astype(int)
        assert np.abs(seen[name][:, 16:].astype(int) - expected).max() <= 2
    assert call("score", "digits/0.png", "one.csv", "-m", "models/ae", "--maps", "one")[0] == 0
    assert pixels("one/0.png").shape == (8, 24, 3)


def test_the_sheet_holds_all_that_it_shows(call: Call, here: Path) -> None:
    (here / "digits/a & <b>.png").write_bytes((here / "digits/0.png").read_bytes())
    strange(here)
    code, *_ = call("score", "digits", "s.csv", "-m", "models/vae", "--sheet", "sheet.html", "--top", 2)
    assert code == 0
    page = (here / "sheet.html").read_text(encoding="utf-8")
    assert page.count("<li>") == 4
    first, *_, last = pd.read_csv("s.csv", keep_default_na=False)["image"].map(html.escape)
    assert page.index("The strangest") < page.index(first) < page.index("The least strange") < page.index(last)
    assert set(re.findall(r'src="(.{10})', page)) == {"data:image"}
    assert "<b>" not in page
    assert call("score", "digits", "t.csv", "-m", "models/vae", "--sheet", "all.html")[0] == 0
    assert (here / "all.html").read_text(encoding="utf-8").count("<li>") == 5  # no image is shown twice


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--by", "blur"), "there is no score 'blur'; the scores of this model: mse"),
        (
            ("--by", "rate"),
            "this model has no score rate: the code is a point: there is no q(z|x) and no prior p(z); the",
        ),
        (("--sheet", "sheet.pdf"), "a sheet is written as HTML: sheet.pdf does not end in .html"),
        (("--maps", "digits/maps"), "digits/maps is inside digits, so its images would count as input"),
    ],
)
def test_a_mistake_is_a_sentence_and_nothing_is_written(
    options: tuple[str, str],
    problem: str,
    call: Call,
    here: Path,
) -> None:
    code, out, err = call("score", "digits", "scores.csv", "-m", "models/ae", *options)
    assert code in {1, 2}
    assert out == ""
    assert problem in re.sub(r"[\s│]+", " ", err)
    assert not (here / "scores.csv").exists()


def test_what_is_there_is_not_replaced_and_what_is_broken_is_named(call: Call, here: Path) -> None:
    (here / "digits/1.png").write_text("hello")
    code, _, err = call("score", "digits", "s.csv", "-m", "models/ae", "--sheet", "s.html", "--maps", "m")
    assert (code, "1 of 3 images were left out" in err, err.count("1.png is not")) == (1, True, 1)
    assert list(pd.read_csv("s.csv")["image"].sort_values()) == ["0.png", "2.png"]
    code, _, err = call("score", "digits", "new.csv", "-m", "models/ae", "--sheet", "s.html")
    assert (code, "s.html would be replaced: use --force to allow this" in err) == (1, True)


@pytest.mark.parametrize("variant", VARIANTS.available())
def test_the_task_gives_one_number_an_image(variant: str, x: torch.Tensor) -> None:
    model = toy_model(variant)
    names = anomaly.defined(model)
    for name in names:
        found = perform(model, "score", x[:5], Options(by=name))
        assert found.shape == (5,)
        assert found.isfinite().all()
    if names:
        assert torch.equal(
            perform(model, "score", x[:5], Options()), perform(model, "score", x[:5], Options(by=names[0]))
        )
        assert perform(model, "score", x[:0], Options()).shape == (0,)
    else:  # a model that returns its input has no score
        with pytest.raises(UserError, match=r"this model has no score mse: .*; the scores of this model: none"):
            perform(model, "score", x[:5], Options())
    with pytest.raises(UserError, match="there is no score 'blur'"):
        perform(model, "score", x[:5], Options(by="blur"))


def test_a_colour_image_has_one_error_a_pixel() -> None:
    from aelab.inference import scoring  # noqa: PLC0415

    x, y = torch.zeros(2, 3, 4, 4), torch.tensor([0.0, 0.3, 0.6]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    torch.testing.assert_close(scoring._errors(x, y), torch.full((2, 4, 4), 0.3))
    assert tasks.TASKS.keys() >= {"score"}
    assert isinstance(Image.open(io.BytesIO(png(scoring._coloured(np.zeros((1, 2, 2)))[0]))), Image.Image)
