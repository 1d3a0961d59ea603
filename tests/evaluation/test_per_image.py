"""Metrics of each image: every metric that is a mean over images is written once, with the same bits each time."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from aelab.evaluation import image_quality, per_image, probes, reconstruction
from aelab.models.base import VARIANTS, Autoencoder
from aelab.models.checkpoint import build
from aelab.models.statistics import Mean, Measured
from tests.support.toys import IMAGE, PARAMETERS, batch, quadrants

FEW = 5  # images on which the bound is measured


@pytest.fixture(params=VARIANTS.available())
def model(request: pytest.FixtureRequest, x: torch.Tensor, generator: torch.Generator) -> Autoencoder:
    torch.manual_seed(0)
    model = build(request.param, IMAGE, PARAMETERS[request.param])
    model.loss(batch(x, x, generator))
    return model.eval()


def measured(model: Autoencoder, pixels: NDArray[np.uint8], batch_size: int = 16) -> Measured:
    values = reconstruction.evaluate(model, pixels, {"dark": pixels // 2}, batch_size=batch_size)
    values |= reconstruction.denoising(model, pixels, {"darker": pixels // 4}, count=FEW)
    values |= reconstruction.importance_weighted(model, pixels, values, samples=3, count=FEW)
    return values


def written(path: Path, values: Measured, count: int) -> pd.DataFrame:
    per_image.write(path, {3: {name: each.numpy() for name, each in values.images.items()}}, count)
    return pd.read_parquet(path)


def test_the_mean_of_a_column_is_the_metric(model: Autoencoder, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    values = measured(model, pixels)
    table = written(tmp_path / "a.parquet", values, len(pixels))
    wanted = {"mse", "psnr", "ssim", "denoising_dark", "copying_dark", "denoising_darker"}
    assert wanted - reconstruction.undefined_metrics(model).keys() <= set(table)
    assert ({"neg_elbo", "rate", "distortion"} <= set(table)) == ("bound" not in model.undefined)
    assert set(table) <= {"seed", "image", "nll_gap"} | values.keys()
    for name in values.keys() & set(table) - {"nll"}:
        assert table[name].mean() == pytest.approx(values[name], rel=1e-5), name
    if "nll" in table:
        assert table["neg_elbo"].mean() - table["nll_gap"].mean() == pytest.approx(values["nll"], rel=1e-5)


def test_each_image_has_its_own(model: Autoencoder, pixels: NDArray[np.uint8], x: torch.Tensor, tmp_path: Path) -> None:
    table = written(tmp_path / "a.parquet", measured(model, pixels), len(pixels))
    with torch.no_grad():
        expected = image_quality.mse(model.reconstruct(x), x).numpy()
    np.testing.assert_allclose(table["mse"], expected, rtol=1e-4)
    assert table["image"].tolist() == list(range(len(pixels)))
    chosen = np.linspace(0, len(pixels) - 1, FEW).round().astype(int).tolist()
    for name in {"denoising_darker", "nll", "nll_gap"} & set(table):
        assert table.index[table[name].notna()].tolist() == chosen, name


def test_undefined_metrics_have_no_column(model: Autoencoder, pixels: NDArray[np.uint8]) -> None:
    assert not measured(model, pixels).images.keys() & reconstruction.undefined_metrics(model).keys()


def test_the_same_bits_again(model: Autoencoder, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / name, measured(model, pixels), len(pixels))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_hits_are_0_or_100() -> None:
    splits = [quadrants(60, seed, shuffled=True) for seed in range(3)]
    values = probes.accuracies(build("ae", IMAGE, PARAMETERS["ae"]).eval(), *splits)
    for name in ("probe_accuracy", "knn_accuracy"):
        hits = values.images[name]
        assert set(hits.tolist()) == {0.0, 100.0}
        assert hits.mean().item() == pytest.approx(values[name], rel=1e-6)
        assert len(hits) == len(splits[2].targets)


def test_seeds_that_lack_a_metric_and_values_that_are_none_are_null(tmp_path: Path) -> None:
    seeds = {
        0: {"mse": np.array([1, 2, 3], np.float32), "psnr": np.array([1, math.inf, math.nan], np.float32)},
        2: {"mse": np.array([4, 5, 6], np.float32), "nll": np.array([7, 8], np.float32)},
    }
    per_image.write(tmp_path / "a", seeds, 3)
    found = per_image.read(tmp_path / "a")
    assert found["mse"].index.tolist() == [0, 2]
    assert found["mse"].to_numpy().tolist() == [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(found["psnr"], [[1, math.nan, math.nan], [math.nan] * 3])
    np.testing.assert_array_equal(found["nll"], [[math.nan] * 3, [7, math.nan, 8]])


def test_where_no_seed_has_finished_there_are_no_rows(tmp_path: Path) -> None:
    per_image.write(tmp_path / "a", {}, 3)
    assert per_image.read(tmp_path / "a") == {}


def test_means_keep_what_they_are_the_means_of() -> None:
    mean = Mean()
    for values in ([1.0, 2.0], [4.5]):
        mean.add(torch.tensor(values, dtype=torch.float64))
    both = Measured({"codes": 3.0})
    both |= Measured.of({"a": mean})
    both |= {"plain": 1.0}
    assert both == {"codes": 3.0, "a": 2.5, "plain": 1.0}
    assert both.images["a"].tolist() == [1.0, 2.0, 4.5]
    other = both.renamed({"a": "b", "codes": None})
    assert other == {"b": 2.5, "plain": 1.0}
    assert list(other.images) == ["b"]
