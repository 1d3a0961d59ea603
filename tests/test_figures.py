from pathlib import Path

import numpy as np
import torch

from autoencoders import figures

HISTORY = [
    {"phase": "a", "epoch": 1, "train_loss": 3.0, "validation_loss": 3.0},
    {"phase": "a", "epoch": 2, "train_loss": 2.0, "validation_loss": 2.5},
    {"phase": "b", "epoch": 1, "train_loss": 1.0, "validation_loss": 1.0},
]


def test_same_data_same_bytes(x: torch.Tensor, tmp_path: Path) -> None:
    pixels = x.numpy()
    for name in ("first", "second"):
        figures.images([("row", pixels[:5]), ("", pixels[5:10])], tmp_path / name / "images.png")
        figures.learning_curves(HISTORY, {"a": 2, "b": 1}, tmp_path / name / "curves.png")
        figures.code_usage(np.array([3, 0, 5], np.float32), tmp_path / name / "usage.png")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
        assert path.read_bytes().startswith(b"\x89PNG")


def test_colour_images_are_drawn(tmp_path: Path) -> None:
    figures.images([("", torch.rand(4, 3, 12, 8).numpy())], tmp_path / "colour.png")
    assert (tmp_path / "colour.png").stat().st_size > 0
