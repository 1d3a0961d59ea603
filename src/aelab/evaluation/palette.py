"""Colours of the figures, for a white background. HTML pages replace each colour by its CSS variable in `THEMED`."""

INK, GRID, ACCENT = "#1f2937", "#e5e7eb", "#1d4ed8"
FAINT, PAPER = "#6b7280", "#ffffff"
# Colours of the models in a figure, with a contrast of at least 3:1 on white. Red-blind and green-blind readers can
# distinguish the colours.
COLOURS = (
    "#0732a9", "#c56c48", "#34a07f", "#8104fc", "#ac3148", "#029cc4",
    "#805d00", "#780575", "#709b01", "#0669b2", "#712a07", "#6976fc",
)  # fmt: skip
MARKERS = "osD^vPX<p>*h"  # a marker for each model, for readers who see no colours
THEMED = {INK: "ink", FAINT: "soft", GRID: "line", PAPER: "paper"} | {c: f"c{i}" for i, c in enumerate(COLOURS)}
