from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from autoencoders import charts, figures
from autoencoders.charts import Spent
from autoencoders.intervals import Interval

SPENT = [
    Spent("vae", 0, np.array([20.0, 21.0]), np.array([80.0, 79.0]), family="vae", beta=1.0),
    Spent("vae-beta4", 1, np.array([10.0, 11.0]), np.array([95.0, 94.0]), family="vae", beta=4.0),
    Spent("vqvae", 2, np.array([150.0]), np.array([50.0]), uniform=np.array([300.0])),
    Spent("vqvae-too", 3, np.array([151.0]), np.array([50.5]), uniform=np.array([300.0])),
]
LINES = {"a": [(0.0, Interval(1.0, 0.1)), (0.5, Interval(2.0, 0.2))], "b": [(0.0, Interval(1.0, float("nan")))]}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    kept = list[Figure]()

    def save(figure: Figure, path: Path) -> None:
        kept.append(figure)
        figures.save(figure, path)

    monkeypatch.setattr(charts, "save", save)
    return kept


def test_same_data_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        charts.rate_distortion(SPENT, tmp_path / name / "rate.png")
        charts.errors({"masking": LINES, "gaussian": LINES}, {"a": 0, "b": 7}, "MSE", tmp_path / name / "errors.png")
        charts.ratios(LINES, {"a": 0, "b": 7}, "step", "ratio", tmp_path / name / "ratios.png")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_labels_cover_neither_dots_nor_each_other(tmp_path: Path, drawn: list[Figure]) -> None:
    charts.rate_distortion(SPENT, tmp_path / "rate.png")
    axes = drawn[0].axes[0]
    named = [text for text in axes.texts if text.get_text().startswith("v")]
    assert {text.get_text() for text in named} >= {"vae", "vqvae", "vqvae, uniform prior"}
    assert len(named) == 6
    boxes = [text.get_window_extent() for text in named]
    means = [axes.transData.transform(each.mean) for each in SPENT]
    assert not any(box.contains(*mean) for box in boxes for mean in means)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_only_a_family_is_joined_and_equal_sums_have_slope_minus_one(tmp_path: Path, drawn: list[Figure]) -> None:
    charts.rate_distortion(SPENT, tmp_path / "rate.png")
    (curve,) = (line for line in drawn[0].axes[0].lines if line.get_color() == charts.FAINT)
    assert np.asarray(curve.get_xydata()).tolist() == [[20.5, 79.5], [10.5, 94.5]]
    for line in drawn[0].axes[0].lines:
        if line is not curve:
            assert np.ptp(np.asarray(line.get_xydata()).sum(1)) == pytest.approx(0, abs=1e-9)
