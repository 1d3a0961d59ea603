"""report: set all entries side by side, as CSV, Markdown and one HTML file, and hand the results to MLflow."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from statistics import fmean
from typing import Any

import pandas as pd
import typer
from safetensors.numpy import load_file

from autoencoders import comparison, figures, metrics
from autoencoders.comparison import Figure, Section
from pipeline import paths, results, stage
from pipeline.params import PARAMS, Params
from pipeline.results import Result

CAPTIONS = {
    "reconstructions": "Test images on the left, what the model gives back on the right.",
    "denoising": "Each corruption of the test images, and what the model makes of it.",
    "interpolation": "Straight lines from one image's code to another's.",
    "traversal": "One dimension of one image's code is turned over ±3 standard deviations, the rest left alone.",
    "samples": "Images drawn from the model's prior.",
    "code_usage": "How often each code of the codebook is used over the whole test set.",
    "learning_curves": "Loss by step, and by seconds above; the large dot marks the weights that validation picked.",
}
CLAIMS = (
    (
        "A plain autoencoder drifts to the identity; denoising cures it.",
        "Is the output for a corrupted image nearer to the clean one (first column) or to the corrupted one (second)?",
    ),
    (
        "An autoencoder memorises what it was trained on.",
        "How much larger is the error on test images than on training images (third column; 1 is no memorising)?",
    ),
    (
        "Discrete codes avoid posterior collapse.",
        "How many latent dimensions are active, how many codes in use?",
    ),
    (
        "The encoder's output stays close to the codebook.",
        "How large is its squared distance to its code, as a share of its own square (last column)?",
    ),
)


def work(params: Params, _: stage.Provenance) -> None:
    """Write the reports; beside it, in a process of its own because MLflow is slow to import, MLflow's runs."""
    with subprocess.Popen([sys.executable, "-m", "pipeline.track"]) as track:
        write(params)
    if track.returncode:
        msg = "the runs could not be written to MLflow"
        raise RuntimeError(msg)


def write(params: Params) -> None:
    """Write the three reports, the metrics and curves for DVC, and the figures that the reports show."""
    collected = results.collect(params)
    rows = pd.DataFrame([_row(result) for result in collected])
    paths.REPORTS.mkdir(exist_ok=True)
    rows.to_csv(paths.REPORTS / "comparison.csv", index=False, na_rep="n/a")
    _write_curves(params, collected)
    _write_metrics(params, collected)

    folder = paths.REPORTS / "figures"
    shutil.rmtree(folder, ignore_errors=True)
    context = _context(params, collected, rows)
    for extension in ("md", "html"):
        text = comparison.render(f"comparison.{extension}.j2", context)
        (paths.REPORTS / f"comparison.{extension}").write_text(text, encoding="utf-8")
    print((paths.REPORTS / "comparison.md").read_text(encoding="utf-8").split("### ")[1])


def _row(result: Result) -> dict[str, Any]:
    """One row of the CSV: what was measured (on the test split unless named), its cost, where it comes from."""
    listed = (
        *metrics.RECONSTRUCTION, *metrics.LIKELIHOOD, *metrics.CODES, *metrics.SAMPLES, *metrics.REPRESENTATION
    )  # fmt: skip
    validation = {f"validation_{name}": value for name, value in result.metrics.get("validation", {}).items()}
    row = {
        "entry": result.entry,
        "model": result.parameters[f"variants.{result.entry}"]["model"],
        "seed": result.seed,
        "status": result.status,
        **dict.fromkeys(listed, float("nan")),
        **result.metrics.get("test", {}),
        **validation,
        "pixels": result.pixels or "n/a",
        **results.costs(result),
        "best_steps": "/".join(str(phase["best_step"]) for phase in result.outcome.values()),
        "started": result.training["started"],
        "commit": result.training["commit"],
        "uncommitted_changes": " ".join(result.training["uncommitted_changes"]) or "none",
        "data": result.data_digest,
        "parameters_digest": results.parameters_digest(result),
        "device": result.training["device"],
        "hardware": result.training["hardware"],
        "precision": result.training["precision"],
        "mode": result.training["mode"],
        "python": result.training["python"],
        **result.training["packages"],
    }
    return {name: comparison.spreadsheet(value) for name, value in row.items()}


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
                stage.write_csv(rows, folder / name / f"{entry}-{phase}.csv")


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
        stage.write_json(folder / f"{entry}.json", means)


def _context(params: Params, collected: list[Result], rows: pd.DataFrame) -> dict[str, Any]:
    """What the templates show."""
    finished, reference = rows[rows["status"] == "finished"], params.corruption.train
    pixels = sorted({result.pixels for result in collected if result.pixels})

    def table(title: str, note: str, names: Iterable[str]) -> comparison.Table:
        return comparison.table(title, note, finished, names, pixels)

    glance = table("At a glance", f"Denoising MSE: {reference.kind} at level {reference.level}.", metrics.HEADLINE)
    for name in params.variants:
        if name not in set(finished["entry"]):
            glance.rows.append([name, *["diverged"] * (len(glance.header) - 1)])
    noise = [name for name in map(str, finished) if name.startswith("denoising_") and name != "denoising_mse"]
    seeds = f"{len(params.seeds)} seeds" if len(params.seeds) > 1 else "one seed"
    return {
        "title": f"Autoencoders on {params.dataset.name}",
        "summary": (
            f"{len(params.variants)} entries, each trained with {seeds}. Weights were picked on the validation split; "
            "numbers are from the test split unless they say otherwise. Mean ± standard deviation over the seeds, no ± "
            "where there is one seed or all agree; the best mean in bold."
        ),
        "problems": [
            *(f"{r.entry}, seed {r.seed}: {symptom}" for r in collected for symptom in r.symptoms),
            *(
                f"{r.entry}, seed {r.seed}: {r.status}; it counts nowhere below"
                for r in collected
                if r.status != "finished"
            ),
        ],
        "differences": comparison.differences(params.variants),
        "tables": [
            glance,
            table(
                "The same on the validation split",
                "By these, settings and budgets are picked.",
                [f"validation_{name}" for name in metrics.HEADLINE],
            ),
            table(
                "Likelihood",
                "Per image: −ELBO = rate + distortion"
                + (f", of {' or '.join(pixels)} pixels" if pixels else "")
                + (": bounds on different pixels are not comparable." if len(pixels) > 1 else "."),
                metrics.LIKELIHOOD,
            ),
            table("Codes", "Over the whole test set.", metrics.CODES),
            table("Samples", _features(), metrics.SAMPLES),
            table("Representation", "Of the codes of frozen models, for the images' classes.", metrics.REPRESENTATION),
            table("Denoising", "MSE between what the model makes of the corrupted image and the clean one.", noise),
            table("Cost", "Of one seed.", metrics.COST),
        ],
        "figures": _comparison(params, collected),
        "claims": CLAIMS,
        "claims_table": table(
            "In numbers",
            f"Corrupted images: {reference.kind} at level {reference.level}. Denoising MSE: to the clean image; "
            "copying MSE: to the corrupted one.",
            ("denoising_mse", "copying_mse", "generalisation", *metrics.CODES),
        ),
        "sections": [_section(name, collected) for name in params.variants],
        "undefined": _undefined(collected),
        "metrics": _metrics(finished),
        "provenance": _provenance(params, collected),
        "parameters": PARAMS.read_text(encoding="utf-8"),
        "fence": "`" * max(3, 1 + max(map(len, re.findall("`+", PARAMS.read_text(encoding="utf-8"))), default=0)),
        "folder": paths.REPORTS,
    }


def _features() -> str:
    """What the features are worth in which samples are compared with images."""
    measured = stage.read_json(paths.CLASSIFIER / "metrics.json")["metrics"]
    if not measured:
        return "There is no classifier to take features from."
    return (
        f"In the features of a classifier that puts {measured['classifier_accuracy']:.2f} % of the test images into "
        f"their class. Between as many training images and the test images the Fréchet distance is "
        f"{measured['frechet_floor']:.2f}."
    )


def _metrics(finished: pd.DataFrame) -> comparison.Table:
    """What every metric means that is shown."""
    rows = [
        [comparison.heading(each), each.definition, each.source or "–"]
        for name, each in metrics.METRICS.items()
        if name in finished
    ]
    note = "An arrow says which way is better; without one no value is best."
    return comparison.Table("Metrics", note, ["", "what it is", "source"], rows)


def _provenance(params: Params, collected: list[Result]) -> list[comparison.Table]:
    """Where each entry's numbers come from, and what each stage took."""
    trained = [
        [
            name,
            training["commit"][:12],
            ", ".join(training["uncommitted_changes"]) or "none",
            training["started"],
            training["hardware"],
            f"{training['precision']}, {training['mode']}",
            f"Python {training['python']}, torch {training['packages']['torch']}",
        ]
        for name, training in {result.entry: result.training for result in collected}.items()
    ]
    header = ["", "commit", "uncommitted changes", "trained at", "on", "precision, mode", "with"]
    data = f"Data: {params.dataset.name}, DVC hash {collected[0].data_digest} (training split)."
    files = {name: paths.PROVENANCE / f"{name}.json" for name in ("download", "corrupt", "classify")}
    for name in params.variants:
        files[f"train@{name}"] = paths.training(name)
        files[f"evaluate@{name}"] = paths.PROVENANCE / "evaluate" / f"{name}.json"
    took = [[name, f"{stage.read_json(file)['seconds']:,.1f}"] for name, file in files.items()]
    left_out = stage.read_json(files["download"]).get("left_out", {})
    if left_out:
        data += f" {len(left_out)} files were left out; {files['download']} lists them with the reasons."
    return [
        comparison.Table("Trained", data, header, trained),
        comparison.Table("Seconds", "Of each stage's own work, all seeds together.", ["", "seconds"], took),
    ]


def _comparison(params: Params, collected: list[Result]) -> list[Figure]:
    """The same test images as every entry gives them back, clean and corrupted."""
    shown = [result for name in params.variants if (result := _shown(name, collected))]
    examples = {result.entry: load_file(result.folder / "examples.safetensors") for result in shown}
    if not examples:
        return []
    reference = params.corruption.train
    sheets = (
        (
            "reconstructions",
            "Reconstructions",
            "original",
            "reconstruction",
            "Test images, and what each entry gives back.",
        ),
        (
            "denoising",
            "Denoising",
            "corrupted",
            "restored",
            f"Test images after {reference.kind} at level {reference.level}, and what each entry makes of them.",
        ),
    )
    made = []
    for name, title, above, below, caption in sheets:
        path = paths.REPORTS / "figures" / f"{name}.png"
        first = next(iter(examples.values()))
        figures.images([(above, first[above]), *((entry, each[below]) for entry, each in examples.items())], path)
        made.append(Figure(title, path, caption))
    return made


def _shown(entry: str, collected: list[Result]) -> Result | None:
    """The seed whose figures stand for an entry: its first one that finished."""
    return next((r for r in collected if r.entry == entry and r.status == "finished"), None)


def _section(entry: str, collected: list[Result]) -> Section:
    """An entry's own figures, of its first seed that finished."""
    about = next(result.about for result in collected if result.entry == entry)
    result = _shown(entry, collected)
    if result is None:
        return Section(entry, f"{about} No seed finished.")
    folder = paths.REPORTS / "figures" / entry
    folder.mkdir(parents=True, exist_ok=True)
    for source in result.folder.glob("*.png"):
        shutil.copyfile(source, folder / source.name)
    best = {phase: end["best_step"] for phase, end in result.outcome.items()}
    figures.learning_curves(result.curve, best, folder / "learning_curves.png")
    shown = [
        Figure(name.replace("_", " ").capitalize(), folder / f"{name}.png", caption)
        for name, caption in CAPTIONS.items()
        if (folder / f"{name}.png").exists()
    ]
    return Section(entry, f"{about} Figures of seed {result.seed}.", shown)


def _undefined(collected: list[Result]) -> list[tuple[str, list[str]]]:
    """The reasons for every n/a, each with what it is the reason for."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for result in collected:
        for name, reason in result.undefined.items():
            title = metrics.METRICS[name].title if name in metrics.METRICS else name.replace("_", " ")
            entries = reasons.setdefault(reason, {}).setdefault(title, [])
            if result.entry not in entries:
                entries.append(result.entry)
    return [(reason, [f"{name} ({', '.join(names)})" for name, names in of.items()]) for reason, of in reasons.items()]


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, None, variants=False))
