"""The colours of figures on white paper; a page with a dark theme replaces each by a name of its own."""

INK, GRID, ACCENT = "#1f2937", "#e5e7eb", "#1d4ed8"
FAINT, PAPER = "#6b7280", "#ffffff"
# Of entries: 3 : 1 or more on white, and no two alike to an eye that lacks the receptor of red, or that of green.
COLOURS = (
    "#0732a9", "#c56c48", "#34a07f", "#8104fc", "#ac3148", "#029cc4",
    "#805d00", "#780575", "#709b01", "#0669b2", "#712a07", "#6976fc",
)  # fmt: skip
MARKERS = "osD^vPX<p>*h"  # told apart without colours, too
THEMED = {INK: "ink", FAINT: "soft", GRID: "line", PAPER: "paper"} | {c: f"c{i}" for i, c in enumerate(COLOURS)}
