from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_params_from_file
from matplotlib.colors import to_hex
from PIL import Image

from aelab.evaluation import figures
from aelab.evaluation.palette import COLOURS, GRID, INK


def test_same_data_same_bytes(x: torch.Tensor, tmp_path: Path) -> None:
    pixels = x.numpy()
    for name in ("first", "second"):
        figures.images([("row", pixels[:5]), ("", pixels[5:10])], tmp_path / name / "images.png")
        figures.code_usage(np.array([3, 0, 5], np.float32), tmp_path / name / "usage.png")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_style_has_the_colours_of_the_palette() -> None:
    """The page's dark theme replaces exactly the colours of the palette."""
    style = rc_params_from_file(figures.STYLE, use_default_template=False)
    assert [to_hex(f"#{each['color'].removeprefix('#')}") for each in style["axes.prop_cycle"]] == list(COLOURS)
    assert {f"#{colour.removeprefix('#')}" for key, colour in style.items() if key.endswith("color")} == {INK, GRID}


def test_halves_stand_apart(x: torch.Tensor, tmp_path: Path) -> None:
    rows = [("", x[:6].numpy()), ("", x[6:12].numpy())]
    figures.images(rows, tmp_path / "whole.png")
    figures.images(rows, tmp_path / "halves.png", ("left", "right"))
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "halves.png") as halves:
        middle = np.array(halves.convert("L"))[-40:, halves.width // 2 - 2 : halves.width // 2 + 2]
        assert (middle == 255).all()
        assert (np.array(whole.convert("L"))[-40:, whole.width // 2 - 20 : whole.width // 2 + 20] < 255).any()


def test_colour_images_are_drawn(tmp_path: Path) -> None:
    figures.images([("", torch.rand(4, 3, 12, 8).numpy())], tmp_path / "colour.png")
    assert (tmp_path / "colour.png").stat().st_size > 0
