"""Colours of entries: contrast and differences in both themes, also for colour-blind readers.

Source: the formulas of WCAG for contrast, Machado et al. 2009 for colour blindness, and CIE 1976 for differences.
"""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from aelab.evaluation.palette import COLOURS, PAPER, THEMED
from aelab.report import charts, pages

CSS = Path(pages.__file__).with_name("templates").joinpath("report.css").read_text(encoding="utf-8")
EYES = {
    "all receptors": np.eye(3),
    "without red": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "without green": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
}


def theme(block: str) -> tuple[list[str], str]:
    """Colours of entries and of the background, in one theme of the page."""
    named = dict(re.findall(r"--(\w+): (#\w{6});", block))
    return [named[THEMED[colour]] for colour in COLOURS], named["paper"]


LIGHT, DARK = map(theme, re.findall(r":root \{.*?\}", CSS, re.DOTALL))


def linear(colour: str) -> NDArray[np.float64]:
    value = np.array(to_rgb(colour))
    return np.asarray(np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4))


def contrast(one: str, other: str) -> float:
    dark, bright = sorted(float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))
    return (bright + 0.05) / (dark + 0.05)


def lab(colour: str, eye: NDArray[np.float64]) -> NDArray[np.float64]:
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ (eye @ linear(colour)), 0) / [0.9505, 1, 1.0888])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def closest(colours: list[str], eye: str) -> float:
    """Smallest difference ΔE* between two colours. A ΔE* of 2 is barely visible if the colours touch."""
    seen = [lab(colour, EYES[eye]) for colour in colours]
    return min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2))


def test_the_page_has_the_colours_of_the_charts() -> None:
    assert (list(COLOURS), PAPER) == LIGHT


@pytest.mark.parametrize(("colours", "paper"), [LIGHT, DARK], ids=["light", "dark"])
def test_twelve_colours_can_be_told_from_their_paper_and_from_each_other(colours: list[str], paper: str) -> None:
    assert len(colours) == 12
    assert min(contrast(colour, paper) for colour in colours) >= 3
    assert {eye: closest(colours, eye) > 15 for eye in EYES} == dict.fromkeys(EYES, True)


def test_colours_that_some_eye_mixes_up_are_found() -> None:
    six = ["#1d4ed8", "#c2410c", "#047857", "#7e22ce", "#be123c", "#0e7490"]
    assert [closest(six, eye) > 15 for eye in EYES] == [True, False, False]
    assert closest(["#ff0000", "#fa0505"], "all receptors") < 15
    assert contrast("#9ca3af", "#ffffff") < 3


def test_twelve_entries_differ_in_colour_and_in_marker() -> None:
    looks = [charts._look(style) for style in range(12)]
    assert [len(set(each)) for each in zip(*looks, strict=True)] == [12, 12]
