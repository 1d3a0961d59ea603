"""report: set all entries side by side, as CSV, Markdown and one HTML file, and hand the results to MLflow."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import typer

from autoencoders import comparison, disk, figures, metrics
from autoencoders.comparison import Figure
from pipeline import page, paths, stage
from pipeline.page import Shown
from pipeline.params import Params
from pipeline.results import Result

DRAWN = {
    "reconstructions": "Test images on the left, what the model gives back on the right.",
    "denoising": "Each corruption of the test images, and what the model makes of it.",
    "interpolation": "Straight lines from one image's code to another's.",
    "traversal": "One dimension of one image's code is turned over ±3 standard deviations, the rest left alone.",
    "samples": "Images drawn from the model's prior.",
}


def work(params: Params, _: stage.Provenance) -> None:
    """Write the reports; beside it, in a process of its own because MLflow is slow to import, MLflow's runs."""
    with subprocess.Popen([sys.executable, "-m", "pipeline.track"]) as track:
        write(params)
    if track.returncode:
        msg = "the runs could not be written to MLflow"
        raise RuntimeError(msg)


def write(params: Params) -> None:
    """Write the three reports, the metrics and curves for DVC, and the figures that the reports show."""
    entries = page.shown(params)
    collected = [result for entry in entries for result in entry.results]
    rows = page.rows(entries)
    paths.REPORTS.mkdir(exist_ok=True)
    rows.to_csv(paths.REPORTS / "comparison.csv", index=False, na_rep="n/a")
    _write_curves(params, collected)
    _write_metrics(params, collected)

    folder = paths.REPORTS / "figures"
    shutil.rmtree(folder, ignore_errors=True)
    context = page.context(entries, rows, folder)
    context |= {"folder": paths.REPORTS, "pictures": _pictures(params, entries, folder), "own": _own(entries, folder)}
    for extension in ("md", "html"):
        text = comparison.render(f"comparison.{extension}.j2", context)
        (paths.REPORTS / f"comparison.{extension}").write_text(text, encoding="utf-8")
    print("\n".join(f"{sentence.text} ({sentence.certainty})" for sentence in context["sentences"]))


def _write_curves(params: Params, collected: list[Result]) -> None:
    """What `dvc plots` shows: the loss by step of every entry's phases, and the seconds from the curve's first point to
    each step; means over the seeds.
    """
    folder = paths.REPORTS / "curves"
    shutil.rmtree(folder, ignore_errors=True)
    for entry in params.variants:
        curves = [result.curve for result in collected if result.entry == entry]
        for phase in dict.fromkeys(point["phase"] for curve in curves for point in curve):
            for split, name in (("train", "training"), ("validation", "validation")):
                points: dict[int, list[tuple[float, float]]] = {}
                for curve in curves:
                    mine = [point for point in curve if point["phase"] == phase]
                    for point in mine:
                        if f"{split}_loss" in point:
                            reached = point["time"] - mine[0]["time"], point[f"{split}_loss"]
                            points.setdefault(point["step"], []).append(reached)
                rows = [
                    {"step": step, "seconds": round(fmean(seconds), 2), "loss": fmean(losses)}
                    for step, (seconds, losses) in ((s, zip(*r, strict=True)) for s, r in sorted(points.items()))
                ]
                disk.write_csv(rows, folder / name / f"{entry}-{phase}.csv")


def _write_metrics(params: Params, collected: list[Result]) -> None:
    """What `dvc metrics` shows, by split: means over the seeds that finished, of the metrics that decide first."""
    folder = paths.REPORTS / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    for entry in params.variants:
        finished = [result.metrics for result in collected if result.entry == entry and result.metrics]
        means = {
            split: {
                name: fmean(measured[split][name] for measured in finished)
                for name in metrics.DECIDING
                if finished and all(name in measured[split] for measured in finished)
            }
            for split in ("validation", "test")
        }
        disk.write_json(folder / f"{entry}.json", means)


def _pictures(params: Params, entries: Sequence[Shown], folder: Path) -> list[Figure]:
    """For pages that hold no images themselves: the same test images as every entry gives them back."""
    examples = {entry.name: each for entry in entries if (each := entry.examples)}
    reference = params.corruption.reference
    made = []
    for name, above, below, caption in (
        ("reconstructions", "original", "reconstruction", "Test images, and what each entry gives back."),
        ("denoising", "corrupted", "restored",
         f"Test images after {reference.kind} at level {reference.level}, and what each entry makes of them."),
    ):  # fmt: skip
        rows = [(above, each[above]) for each in list(examples.values())[:1]]
        rows += [(entry, each[below]) for entry, each in examples.items()]
        if rows:
            figures.images(
                [(label, np.asarray(images / 255, np.float32)) for label, images in rows], folder / f"{name}.png"
            )
            made.append(Figure(name.capitalize(), folder / f"{name}.png", caption))
    return made


def _own(entries: Sequence[Shown], folder: Path) -> dict[str, list[Figure]]:
    """Likewise each entry's own figures, of its first seed that finished."""
    own: dict[str, list[Figure]] = {}
    for entry in entries:
        for result in entry.finished[:1]:
            for name, caption in DRAWN.items():
                source, target = result.folder / f"{name}.png", folder / entry.name / f"{name}.png"
                if source.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
                    own.setdefault(entry.name, []).append(Figure(name.capitalize(), target, caption))
    return own


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, None, variants=False))
