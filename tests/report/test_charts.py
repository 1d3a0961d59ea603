import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Plot
from matplotlib.lines import Line2D

from aelab.evaluation.palette import COLOURS, FAINT, PAPER
from aelab.report import charts
from aelab.report.evidence import RateDistortion
from aelab.report.intervals import Interval
from aelab.report.pages import Figure

POINTS = [
    RateDistortion("vae", 0, np.array([20.0, 21.0]), np.array([80.0, 79.0]), family="vae", beta=1.0),
    RateDistortion("vae-beta4", 1, np.array([10.0, 11.0]), np.array([95.0, 94.0]), family="vae", beta=4.0),
    RateDistortion("vqvae", 2, np.array([150.0]), np.array([50.0]), uniform=np.array([300.0])),
    RateDistortion("vqvae-too", 3, np.array([151.0]), np.array([50.5]), uniform=np.array([300.0])),
]
LINES = {"a": [(0.0, Interval(1.0, 0.1)), (0.5, Interval(2.0, 0.2))], "b": [(0.0, Interval(1.0, float("nan")))]}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Plot]:
    """Figures that the test saved."""
    kept, keep = list[Plot](), charts.save

    def save(figure: Plot, path: Path) -> None:
        kept.append(figure)
        keep(figure, path)

    monkeypatch.setattr(charts, "save", save)
    return kept


CURVE = [
    {"phase": "a", "step": step, "seconds": step / 7, key: 30.0 / step}
    for step in range(1, 21)
    for key in ("train_loss", "validation_loss")
    if key == "train_loss" or step % 5 == 0
]
STYLES = {"a": 0, "b": 7}


def draw_all(folder: Path) -> None:
    charts.rate_distortion(POINTS, folder / "rate.svg")
    charts.lines(LINES, STYLES, folder / "lines.svg", xlabel="level", ylabel="MSE")
    charts.lines(LINES, STYLES, folder / "log.svg", xlabel="seconds", ylabel="%", logarithmic=True)
    charts.values({"a": [1.0, 2.0]}, {"a": Interval(1.5, 0.4)}, STYLES, xlabel="", digits=2, path=folder / "values.svg")
    charts.differences({"b": Interval(1.5, 0.4)}, STYLES, "difference to a", folder / "gaps.svg")
    charts.learning([CURVE, CURVE], [20, 5], 0, folder / "curve.svg")
    charts.bars(np.array([3.0, 0.0, 5.0]), ("codes", "%"), 1, folder / "bars.svg", ("uniform", 2.0))


def test_same_data_same_bytes_and_text_stays_text(tmp_path: Path) -> None:
    for name in ("first", "second"):
        draw_all(tmp_path / name / "figures")
    drawn = list((tmp_path / "first/figures").iterdir())
    assert len(drawn) == 7
    for path in drawn:
        assert path.read_bytes() == (tmp_path / "second/figures" / path.name).read_bytes()
        assert "</text>" in path.read_text()


def test_charts_in_one_page_share_no_ids(tmp_path: Path) -> None:
    draw_all(tmp_path)
    ids = [set(re.findall(r'(?<= )id="([^"]*)"', Figure("t", path, "").svg)) for path in tmp_path.iterdir()]
    assert all(ids)
    assert len(set.union(*ids)) == sum(map(len, ids))


def test_a_difference_that_may_be_chance_is_hollow(tmp_path: Path, drawn: list[Plot]) -> None:
    gaps = {"a": Interval(1.0, 0.5), "b": Interval(1.0, 2.0), "c": Interval(1.0, float("nan"))}
    charts.differences(gaps, dict.fromkeys(gaps, 0), "x", tmp_path / "gaps.svg")
    faces = [to_hex(np.asarray(dots.get_facecolor())[0].tolist()) for dots in drawn[0].axes[0].collections]
    assert faces == [COLOURS[0], PAPER, PAPER]


def test_a_metric_shows_every_seed_its_mean_and_interval(tmp_path: Path, drawn: list[Plot]) -> None:
    seeds = {"a": [1.0, 2.0, 6.0], "b": [4.0]}
    means = {"a": Interval(3.0, 6.6, images=1.0), "b": Interval(4.0, float("nan"))}
    charts.values(seeds, means, STYLES, xlabel="nats", digits=1, path=tmp_path / "values.svg")
    axes = drawn[0].axes[0]
    dots = [np.asarray(each.get_offsets())[:, 0].tolist() for each in axes.collections]
    assert dots == [[3.0], [1.0, 2.0, 6.0], [4.0], [4.0]]
    bar, thick = axes.lines
    assert np.asarray(bar.get_xdata()).tolist() == pytest.approx([-3.6, 9.6])
    assert np.asarray(thick.get_xdata()).tolist() == pytest.approx([2.0, 4.0])
    assert thick.get_linewidth() > bar.get_linewidth()
    assert [text.get_text() for text in axes.texts] == ["3.0", "4.0"]


def test_a_legend_tells_many_entries_apart() -> None:
    assert len({charts._look(style) for style in range(144)}) == 144
    assert [len(set(each)) for each in zip(*map(charts._look, range(12)), strict=True)] == [12, 12]


def test_lines_of_one_colour_differ_in_marker_and_dashes(tmp_path: Path, drawn: list[Plot]) -> None:
    names = [f"entry-{i}" for i in range(36)]
    styles = {name: i for i, name in enumerate(names)}
    charts.lines(dict.fromkeys(names, LINES["a"]), styles, tmp_path / "lines.svg", xlabel="x", ylabel="y")
    lines = drawn[0].axes[0].lines
    assert len(lines) == 36
    for colour in COLOURS:
        alike = [line for line in lines if to_hex(line.get_color()) == colour]
        assert len(alike) == len({line.get_linestyle() for line in alike}) == 3
        assert len({line.get_marker() for line in alike}) == 3
    (legend,) = drawn[0].legends
    handles = [handle for handle in legend.legend_handles if isinstance(handle, Line2D)]
    shown = {(handle.get_color(), handle.get_marker(), handle.get_linestyle()) for handle in handles}
    assert len(shown) == 36
    assert all(handle.get_linestyle() in charts.DASHES for handle in handles)


def test_a_curve_of_one_point_is_drawn(tmp_path: Path) -> None:
    charts.learning([CURVE[:1]], [0], 0, tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").stat().st_size > 0


@pytest.mark.parametrize(("loss", "high"), [("train_loss", 3.0), ("validation_loss", 1e25)])
def test_a_spike_of_the_training_loss_leaves_the_curve_readable(
    loss: str, high: float, tmp_path: Path, drawn: list[Plot]
) -> None:
    """A validation loss that blows up is shown."""
    curve = [{"step": i, "seconds": float(i), "train_loss": 2 - i / 100, "validation_loss": 2.5} for i in range(100)]
    curve[50][loss] = 1e25
    charts.learning([curve], [99], 0, tmp_path / "curve.svg")
    assert high / 2 < drawn[0].axes[0].get_ylim()[1] < high * 2


def test_names_and_numbers_lie_beside_all_dots(tmp_path: Path, drawn: list[Plot]) -> None:
    """Names are below the axes; sums are at the upper ends of their lines, above the axes or left of all dots."""
    charts.rate_distortion(POINTS, tmp_path / "rate.svg")
    (axes,), (legend,) = drawn[0].axes, drawn[0].legends
    occupied = axes.get_tightbbox()
    assert [text.get_text() for text in legend.get_texts()] == [
        "vae", "vae-beta4", "vqvae", "vqvae-too", "hollow: uniform prior",
    ]  # fmt: skip
    assert occupied is not None
    assert not legend.get_window_extent().overlaps(occupied)
    sums = [text.get_window_extent() for text in axes.texts if text.get_text().isdecimal()]
    assert len(sums) > 3
    assert not any(one.overlaps(other) for i, one in enumerate(sums) for other in sums[:i])
    means = [axes.transData.transform(each.mean) for each in POINTS]
    assert not any(box.padded(4).contains(*mean) for box in sums for mean in means)


def test_only_a_family_is_joined_and_equal_sums_have_slope_minus_one(tmp_path: Path, drawn: list[Plot]) -> None:
    charts.rate_distortion(POINTS, tmp_path / "rate.svg")
    (curve,) = (line for line in drawn[0].axes[0].lines if line.get_color() == FAINT)
    assert np.asarray(curve.get_xydata()).tolist() == [[20.5, 79.5], [10.5, 94.5]]
    for line in drawn[0].axes[0].lines:
        if line is not curve:
            assert np.ptp(np.asarray(line.get_xydata()).sum(1)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "name",
    ["vae learning_rate=0.008 code=32 beta=1", "vae-photographs learning_rate=0.1", "a b c d e f g h i j k l m n o"],
)
def test_a_long_name_leaves_the_axes_their_room(name: str, drawn: list[Plot], tmp_path: Path) -> None:
    """Long names of entries, as from `pipeline.tools.compare`."""
    names = [f"{name} {i}" for i in range(4)]
    means, styles = dict.fromkeys(names, Interval(1.5, 0.4)), {each: i for i, each in enumerate(names)}
    seeds = {each: [1.0, 2.0] for each in names}
    charts.values(seeds, means, styles, xlabel="nats", digits=2, path=tmp_path / "values.svg")
    charts.differences(means, styles, f"difference to {name} (nats)", tmp_path / "gaps.svg")
    line = [(0.0, Interval(1.0, 0.1)), (0.5, Interval(2.0, 0.2))]
    charts.lines(dict.fromkeys(names, line), styles, tmp_path / "lines.svg", xlabel="level", ylabel="MSE")
    assert len(drawn) == 3
    for figure in drawn:
        box = figure.axes[0].get_position()
        assert box.width > 0.3, box
        assert box.height > 0.3, box


def test_a_map_names_every_class_as_long_as_each_can_have_a_look_of_its_own(tmp_path: Path) -> None:
    for count, named in ((10, True), (12, True), (13, False)):
        places = np.random.default_rng(0).random((40, 2))
        charts.code_map(np.column_stack([places, np.arange(40) % count]).astype(np.float32), tmp_path / "map.svg")
        text = (tmp_path / "map.svg").read_text(encoding="utf-8")
        assert [f">{each}</text>" in text for each in range(count)] == [named] * count
