from pathlib import Path

import numpy as np

from aelab.evaluation import examples
from aelab.evaluation.examples import Examples


def test_the_report_reads_what_evaluate_has_written(tmp_path: Path) -> None:
    """Rows keep their order and their labels, even labels with a slash or without a character."""
    pixels = np.linspace(-0.1, 1.1, 2 * 64, dtype=np.float32).reshape(2, 1, 8, 8)
    rows = [("z", pixels), ("a/b", 1 - pixels), ("", pixels)]
    drawn = Examples(
        {"original": pixels}, {"denoising": rows, "samples": [("", pixels)]}, {"code_usage": np.arange(3.0)}
    )
    drawn.write(tmp_path / "examples.safetensors")
    found = examples.read(tmp_path / "examples.safetensors")
    assert found.images.keys() == {"original"}
    assert {name: [label for label, _ in each] for name, each in found.figures.items()} == {
        "denoising": ["z", "a/b", ""],
        "samples": [""],
    }
    stored = found.figures["denoising"][1][1]
    assert stored.dtype == np.uint8
    assert np.abs(stored / 255 - (1 - pixels).clip(0, 1)).max() <= 0.5 / 255 + 1e-6
    assert found.statistics["code_usage"].tolist() == [0, 1, 2]
