import re
from pathlib import Path

import numpy as np
import pytest
import torch

from aelab.core.errors import UserError
from aelab.inference import onnx
from aelab.inference.onnx import export
from tests.support.toys import IMAGE, SECTIONS, toy_model

onnxruntime = pytest.importorskip("onnxruntime")


def difference(sentence: str) -> float:
    """Largest difference, or share of different indices, that the sentence of an export states."""
    number, percent = re.findall(r"(\d[\d.]*(?:e-\d+)?)(%?)", sentence)[-1]
    return float(number) / 100 if percent else float(number)


MODELS = {  # a point, a distribution, and indices of several codebooks
    "ae": {},
    "vae": {},
    "vqvae": {"quantizer": {"name": "residual", **SECTIONS["residual"]}},
}


@pytest.mark.parametrize("variant", MODELS)
def test_a_model_reconstructs_the_same_elsewhere_whatever_the_batch(variant: str, tmp_path: Path) -> None:
    path, model = tmp_path / "model.onnx", toy_model(variant, **MODELS[variant])
    sentence = export(model, "reconstruct", path)
    assert difference(sentence) < 1e-5
    assert "at batches of 1, 2, 3, 17" in sentence
    assert list(tmp_path.iterdir()) == [path]
    x = torch.rand(40, *IMAGE)
    (y,) = onnxruntime.InferenceSession(path).run(["reconstructions"], {"images": x.numpy()})
    np.testing.assert_allclose(y, model.reconstruct(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(("variant", "part"), [("vae", "encode"), ("vqvae", "encode"), ("vqvae", "decode")])
def test_parts(variant: str, part: str, tmp_path: Path) -> None:
    assert difference(export(toy_model(variant), part, tmp_path / "model.onnx")) < 1e-5


class Frozen(torch.nn.Module):
    """Module whose output does not depend on the images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0 + 0.25


def test_a_model_that_gives_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "Part", lambda *_: Frozen())
    path = tmp_path / "model.onnx"
    with pytest.raises(UserError, match=r"are wrong, so no file is written: .* the largest difference is"):
        export(toy_model("ae"), "reconstruct", path)
    monkeypatch.setattr(onnx, "TOLERANCE", 1.0)
    export(toy_model("ae"), "reconstruct", path)  # a file is written if the tolerance is larger
    assert path.exists()


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UserError, match=r"needs onnxscript: in a clone, `pip install '\.\[onnx\]'`"):
        export(toy_model("ae"), "reconstruct", tmp_path / "model.onnx")


def test_no_such_part(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be one of reconstruct, encode, decode"):
        export(toy_model("ae"), "sample", tmp_path / "model.onnx")
