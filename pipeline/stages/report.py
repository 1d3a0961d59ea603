"""report: compare all entries in a CSV, a Markdown and an HTML file, and send the results to MLflow.

An entry is a model with its settings in params.yaml.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import typer

from aelab.core import disk
from aelab.evaluation import figures
from aelab.report import pages
from aelab.report.galleries import Gallery
from aelab.report.metrics import DECIDING
from aelab.report.pages import CAPTIONS, Figure
from aelab.report.verdicts import Claim, Judgement
from pipeline.common import paths, stage
from pipeline.common.params import Params
from pipeline.reporting import report_entries, results
from pipeline.reporting.results import ReportEntry


def work(params: Params, _: stage.Provenance) -> None:
    """Write the reports. Meanwhile, another process sends the results to MLflow, because MLflow is slow to import."""
    with subprocess.Popen([sys.executable, "-m", "pipeline.reporting.track"]) as track:
        write(params)
    if track.returncode:
        msg = "the runs could not be written to MLflow"
        raise RuntimeError(msg)


def write(params: Params) -> None:
    """Write the report as CSV, Markdown and HTML, its figures, and the metrics and learning curves for DVC."""
    entries = results.collect(params)
    rows = results.rows(entries)
    paths.REPORTS.mkdir(exist_ok=True)
    rows.to_csv(paths.REPORTS / "comparison.csv", index=False, na_rep="n/a")
    folder = paths.REPORTS / "figures"
    for old in (folder, paths.REPORTS / "curves", paths.REPORTS / "metrics"):
        shutil.rmtree(old, ignore_errors=True)
    for entry in entries:
        _write_curves(entry)
    _write_metrics(entries)
    context = report_entries.context(entries, rows, folder)
    disk.write_json(paths.REPORTS / "claims.json", {each["claim"].key: _judged(**each) for each in context["claims"]})
    own = {entry.name: list(_own(entry, folder)) for entry in entries}
    context |= {"folder": paths.REPORTS, "pictures": list(_pictures(context["galleries"][:2], folder)), "own": own}
    for extension in ("md", "html"):
        text = pages.render(f"comparison.{extension}.j2", context)
        (paths.REPORTS / f"comparison.{extension}").write_text(text, encoding="utf-8")
    print("\n".join(sentence.line for sentence in context["sentences"]))


def _judged(claim: Claim, judgement: Judgement, **_: Any) -> dict[str, Any]:
    """Return a claim about autoencoders, with the report's verdict and findings, as a mapping for claims.json."""
    findings = [{"text": each.text, "verdict": each.verdict} for each in judgement.findings]
    return {"title": claim.title, "reading": claim.reading, "verdict": judgement.verdict, "findings": findings}


def _write_curves(entry: ReportEntry) -> None:
    """Write learning curves for `dvc plots`: loss and seconds of training at each step, means over the seeds."""
    measured = ["seed", "phase", "step", "seconds", "train_loss", "validation_loss"]
    points = pd.DataFrame(
        [{"seed": result.seed, **point} for result in entry.results for point in result.curve], columns=measured
    )
    for phase, of_phase in points.groupby("phase"):
        for split, name in (("train", "training"), ("validation", "validation")):
            by_step = of_phase.dropna(subset=f"{split}_loss").groupby("step")
            means = pd.DataFrame(
                {"seconds": by_step["seconds"].agg(fmean), "loss": by_step[f"{split}_loss"].agg(fmean)}
            )
            path = paths.REPORTS / "curves" / name / f"{entry.name}-{phase}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            means.assign(seconds=[round(each, 2) for each in means["seconds"]]).to_csv(path)


def _write_metrics(entries: Sequence[ReportEntry]) -> None:
    """Write the main metrics for `dvc metrics`, in one file for each split.

    Each value is an entry's mean over the seeds whose training did not diverge.
    """
    for split in ("validation", "test"):
        trained = [entry for entry in entries if not entry.floor]
        measured = {entry.name: [each.metrics[split] for each in entry.results if each.metrics] for entry in trained}
        means = {
            entry: {
                name: fmean(each[name] for each in seeds)
                for name in DECIDING
                if seeds and all(name in each for each in seeds)
            }
            for entry, seeds in measured.items()
        }
        disk.write_json(paths.REPORTS / "metrics" / f"{split}.json", means)


def _pictures(galleries: Sequence[Gallery], folder: Path) -> Iterator[Figure]:
    """Write the galleries, which are tables of example images, as image files for the Markdown report."""
    for gallery in galleries:
        title = gallery.title.partition(":")[0]
        path = folder / f"{title.lower()}.png"
        figures.images([(strip.label, np.asarray(strip.images[0] / 255, np.float32)) for strip in gallery.strips], path)
        yield Figure(title, path, gallery.caption)


def _own(entry: ReportEntry, folder: Path) -> Iterator[Figure]:
    """Copy the figures of an entry's first finished seed into the report's folder, and yield them with captions."""
    for result in entry.finished[:1]:
        for name, caption in CAPTIONS["own"].items():
            source, target = result.folder / f"{name}.png", folder / entry.name / f"{name}.png"
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                yield Figure(name.capitalize(), target, caption)


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, None, variants=False))
