"""The colours of figures on white paper; a page with a dark theme replaces each by a name of its own."""

INK, GRID, ACCENT = "#1f2937", "#e5e7eb", "#1d4ed8"
FAINT, PAPER = "#6b7280", "#ffffff"
COLOURS = ("#1d4ed8", "#c2410c", "#047857", "#7e22ce", "#be123c", "#0e7490")  # 4.5 : 1 or more on white
THEMED = {INK: "ink", FAINT: "soft", GRID: "line", PAPER: "paper"} | {c: f"c{i}" for i, c in enumerate(COLOURS)}
