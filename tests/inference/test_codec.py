from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from aelab.core.errors import UserError
from aelab.inference import codec as codecs
from aelab.inference.codec import Codec
from aelab.models.base import VARIANTS
from aelab.models.discrete import DiscreteAutoencoder
from tests.support.toys import IMAGE, SECTIONS, toy_model


@pytest.mark.parametrize("variant", VARIANTS.available())
@torch.no_grad()
def test_rows_hold_all_that_decoding_needs(variant: str, x: Tensor) -> None:
    model = toy_model(variant)
    codec = Codec(model)
    rows = codec.encode(x)
    assert rows.shape == (len(x), codec.width)
    assert rows.dtype == (torch.int64 if codec.integers else torch.float32)
    torch.testing.assert_close(codec.decode(codec.checked(rows)), model.reconstruct(x))
    torch.testing.assert_close(codec.decode(codec.checked(rows.double())), model.reconstruct(x))


@pytest.mark.parametrize("quantizer", SECTIONS)
@torch.no_grad()
def test_rows_of_every_quantiser(quantizer: str, x: Tensor) -> None:
    model = toy_model("vqvae", quantizer={"name": quantizer, **SECTIONS[quantizer]})
    codec = Codec(model)
    rows = codec.encode(x)
    assert codec.integers
    assert isinstance(model, DiscreteAutoencoder)
    assert torch.equal(rows, model.indices(x).flatten(1))
    assert rows.dtype == torch.int64
    assert rows.min() >= 0
    assert rows.max() < model.quantizer.codes
    torch.testing.assert_close(codec.decode(rows), model.reconstruct(x))


@pytest.mark.parametrize(
    ("variant", "columns"), [("vqvae", ["k0", "k1"]), ("vae", ["z0", "z1"]), ("ladder", ["z0", "z1"])]
)
def test_only_codes_of_a_codebook_are_indices(variant: str, columns: list[str]) -> None:
    codec = Codec(toy_model(variant))
    assert list(codecs.table(["a"], torch.zeros(1, 2), integers=codec.integers).columns[1:]) == columns


@torch.no_grad()
def test_no_images_have_no_rows() -> None:
    for variant in ("ae", "ladder", "vqvae"):
        codec = Codec(toy_model(variant))
        rows = codec.encode(torch.zeros(0, *IMAGE))
        assert rows.shape == (0, codec.width)
        assert codec.decode(rows).shape == (0, *IMAGE)


@pytest.mark.parametrize(
    ("variant", "rows", "problem"),
    [
        ("vae", torch.zeros(2, 5), r"rows of 4 numbers; got the shape \(2, 5\)"),
        ("vae", torch.zeros(4), r"rows of 4 numbers; got the shape \(4,\)"),
        ("vae", torch.full((1, 4), torch.nan), "infinite or NaN"),
        ("vqvae", torch.full((1, 4), 16), "whole numbers from 0 to 15"),
        ("vqvae", torch.full((1, 4), -1.0), "whole numbers from 0 to 15"),
        ("vqvae", torch.full((1, 4), 0.5), "whole numbers from 0 to 15"),
    ],
)
def test_what_is_no_code_is_refused(variant: str, rows: Tensor, problem: str) -> None:
    codec = Codec(toy_model(variant))
    assert codec.width == 4
    with pytest.raises(UserError, match=problem):
        codec.checked(rows)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("variant", ["vae", "vqvae"])
def test_a_table_is_read_back_to_the_bit(variant: str, suffix: str, x: Tensor, tmp_path: Path) -> None:
    codec = Codec(toy_model(variant))
    with torch.no_grad():
        rows = codec.encode(x[:3])
    path = tmp_path / f"codes{suffix}"
    table = codecs.table(["a.png", "b.png", "ö, 1.png"], rows, integers=codec.integers)
    path.write_bytes(codecs.as_bytes(table, suffix))
    found = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    letter = "k" if codec.integers else "z"
    assert list(found.columns) == ["image", *(f"{letter}{i}" for i in range(codec.width))]
    assert list(found["image"]) == ["a.png", "b.png", "ö, 1.png"]
    numbers = found.drop(columns="image").to_numpy()
    assert torch.equal(torch.from_numpy(numbers.copy()).to(rows.dtype), rows)
