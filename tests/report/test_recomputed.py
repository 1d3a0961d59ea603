"""Comparison of the report with an independent script: the same results, intervals and verdicts."""

import ast
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from aelab.evaluation import per_image, reconstruction
from aelab.models.base import Autoencoder, Batch, Losses
from aelab.report import tables
from aelab.report.evidence import Entry, Evidence
from aelab.report.verdicts import Claim, Duel, judge
from tests.support import recompute
from tests.support.toys import IMAGE

SEEDS = (0, 1, 2)
LEVELS = ("denoising_dark", "denoising_darker", "denoising_masked")
DUEL = Duel(LEVELS, "entries that learned from corrupted images", ["entries that saw no noise"])


class Brighter(Autoencoder):
    """Model that returns its input, brighter by a random factor near `gain`."""

    def __init__(self, gain: float, seed: int) -> None:
        super().__init__(IMAGE)
        drawn = torch.randn((), generator=torch.Generator().manual_seed(seed))
        self.gain = torch.nn.Parameter(gain * (1 + 0.02 * drawn))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z.clamp(0, 1)

    def loss(self, batch: Batch) -> Losses:
        raise NotImplementedError


def run(folder: Path, pixels: NDArray[np.uint8], gains: Mapping[str, float]) -> Evidence:
    """Toy models of two entries, with evaluations saved as by the pipeline."""
    mask = np.random.default_rng(0).integers(0, 2, pixels.shape, dtype=np.uint8)
    copies = {"dark": pixels // 2, "darker": pixels // 3, "masked": pixels * mask}
    entries, rows = list[Entry](), list[dict[str, object]]()
    for (name, gain), inputs in zip(gains.items(), ("noisy", "clean"), strict=True):
        kept, path = {}, folder / name / per_image.FILE
        for seed in SEEDS:
            found = reconstruction.evaluate(Brighter(gain, seed + 10 * len(entries)), pixels, copies)
            rows.append({"entry": name, "seed": seed} | found)
            kept[seed] = {metric: each.numpy() for metric, each in found.images.items()}
        path.parent.mkdir(parents=True)
        per_image.write(path, kept, len(pixels))
        entries.append(Entry(name, parameters={"inputs": inputs}, images=per_image.read(path)))
    return Evidence(entries, pd.DataFrame(rows))


CASES = {
    "supported": {"ours": 1.0, "theirs": 0.3},
    "contradicted": {"ours": 0.3, "theirs": 1.0},
    "mixed": {"ours": 2.0, "theirs": 1.0},
    "undecided": {"ours": 1.0, "theirs": 1.0},
}


@pytest.mark.parametrize("metric", ["mse", "psnr", "ssim", *LEVELS])
def test_an_interval(metric: str, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    evidence = run(tmp_path, pixels, CASES["mixed"])
    (table,) = tables.tables("", "", evidence, [metric])
    assert table.note == "±: 95 % interval over seeds and test images."
    for entry, cell in table.rows:
        mean, half = recompute.interval(recompute.values(tmp_path, entry, metric))
        digits = len(cell.strip("*").partition(" ")[0].partition(".")[2])
        assert cell.strip("*") == f"{mean:.{digits}f} ± {half:.{digits}f}"


@pytest.mark.parametrize("expected", CASES)
def test_a_verdict(expected: str, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    evidence = run(tmp_path, pixels, CASES[expected])
    said = str(judge(Claim("key", "title", "reading", "lacking", [DUEL]), evidence).verdict)
    ours, theirs = ([recompute.values(tmp_path, entry, level) for level in LEVELS] for entry in ("ours", "theirs"))
    gains = [worse - better for better, worse in zip(ours, theirs, strict=True)]  # lower errors are better
    assert said == recompute.verdict(gains) == expected


def test_the_script_shares_nothing_with_the_report() -> None:
    tree = ast.parse(Path(recompute.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} == {"collections", "numpy", "pandas", "pathlib", "scipy", "sys"}
