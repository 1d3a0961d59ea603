"""report: set all entries side by side, as CSV, Markdown and one HTML file, and hand the results to MLflow."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

import pandas as pd
import typer
from safetensors.numpy import load_file

from autoencoders import claims, comparison, figures, metrics
from autoencoders.claims import noises
from autoencoders.comparison import Figure, Section
from autoencoders.evidence import Evidence
from autoencoders.metrics import readable
from pipeline import evidence, paths, results, stage
from pipeline.params import PARAMS, Params
from pipeline.results import Result

CAPTIONS = {
    "reconstructions": "Test images on the left, what the model gives back on the right.",
    "denoising": "Each corruption of the test images, and what the model makes of it.",
    "interpolation": "Straight lines from one image's code to another's.",
    "traversal": "One dimension of one image's code is turned over ±3 standard deviations, the rest left alone.",
    "samples": "Images drawn from the model's prior.",
    "kl_per_dimension": "KL(q(z|x) ‖ p(z)) of each latent dimension, in nats; a dimension without any has collapsed.",
    "code_usage": "How often each code of the codebook is used over the whole test set.",
    "learning_curves": "Loss by step, and by seconds above; the large dot marks the weights that validation picked.",
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
    groups = (metrics.RECONSTRUCTION, metrics.LIKELIHOOD, metrics.CODES, metrics.IDENTITY, metrics.GEOMETRY,
              metrics.REPRESENTATION, metrics.SAMPLES)  # fmt: skip
    validation = {f"validation_{name}": value for name, value in result.metrics.get("validation", {}).items()}
    measured = {
        **{name: float("nan") for group in groups for name in group},
        **result.metrics.get("test", {}),
        **validation,
    }
    trained = {
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
    if taken := measured.keys() & trained.keys():
        msg = f"metrics with the name of another column: {', '.join(sorted(taken))}"
        raise ValueError(msg)
    which = {
        "entry": result.entry,
        "model": result.parameters[f"variants.{result.entry}"]["model"],
        "seed": result.seed,
        "status": result.status,
    }
    return {name: comparison.spreadsheet(value) for name, value in (which | measured | trained).items()}


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
    finished, folder = rows[rows["status"] == "finished"], paths.REPORTS / "figures"
    found = evidence.gather(params, collected, finished)
    return {
        "title": f"Autoencoders on {params.dataset.name}",
        "summary": _summary(params),
        "problems": [
            *(f"{r.entry}, seed {r.seed}: {symptom}" for r in collected for symptom in r.symptoms),
            *(
                f"{r.entry}, seed {r.seed}: {r.status}; it counts nowhere below"
                for r in collected
                if r.status != "finished"
            ),
        ],
        "differences": comparison.differences(params.variants),
        "tables": list(_tables(params, finished)),
        "figures": [*evidence.rate_distortion(found, folder), *_comparison(params, collected)],
        "claims": list(_claims(found, finished, evidence.claimed(found, folder))),
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


def _summary(params: Params) -> str:
    """How to read all tables."""
    text = f"{len(params.variants)} entries, each trained with "
    picked = "Weights were picked on the validation split; numbers are from the test split unless they say otherwise. "
    if len(params.seeds) == 1:
        return f"{text}one seed. {picked}One seed gives no interval, so that nothing is best and nothing in bold."
    return (
        f"{text}{len(params.seeds)} seeds. {picked}Mean ± 95 % interval over the seeds (Student's t), no ± where there "
        "is one seed or all agree. Bold: the best mean, and every entry that ties with it, which is to say that the "
        "interval of its difference to the best, seed by seed, holds 0. An entry with one seed is not ranked."
    )


def _tables(params: Params, finished: pd.DataFrame) -> Iterator[comparison.Table]:
    """The results; a table that has nothing to show is left out."""
    reference = params.corruption.reference
    note = f"Denoising MSE: {reference.kind} at level {reference.level}."
    glance = comparison.table("At a glance", note, finished, metrics.HEADLINE) or comparison.Table(
        "At a glance", note, ["", "status"], []
    )
    for name in params.variants:
        if name not in set(finished["entry"]):
            glance.rows.append([name, *["diverged"] * (len(glance.header) - 1)])
    validation = [f"validation_{name}" for name in metrics.HEADLINE]
    others = [
        comparison.table("The same on the validation split", "By these, settings are picked.", finished, validation)
    ]
    for pixels in finished.loc[finished["neg_elbo"].notna(), "pixels"].unique():
        of_one_kind = finished[finished["pixels"] == pixels]
        note = "Per image: −ELBO = rate + distortion. No other table's likelihoods are comparable with these."
        others.append(
            comparison.table(f"Likelihood: {pixels}", note, of_one_kind, metrics.LIKELIHOOD, say_pixels=False)
        )
    others.append(comparison.table("Codes", "Over the whole test set.", finished, metrics.CODES))
    for title, note, names in (
        ("Representation", "Of the codes of frozen models, for the images' classes.", metrics.REPRESENTATION),
        ("Geometry", "Codes of test images, mixed and turned.", metrics.GEOMETRY),
        ("Samples", _features(), metrics.SAMPLES),
        ("Inputs unlike the data", "What a model gives back of noise and of photographs.", metrics.IDENTITY),
    ):
        others.append(comparison.table(title, note, finished, names))
    for kind, levels in noises(finished).items():
        note = "MSE between what the model makes of the corrupted image and the clean one; first without noise."
        others.append(comparison.table(f"Denoising: {readable(kind)}", note, finished, [name for _, name in levels]))
    others.append(comparison.table("Cost", "Of one seed.", finished, metrics.COST))
    return (table for table in (glance, *others) if table)


def _claims(found: Evidence, finished: pd.DataFrame, drawn: Mapping[str, list[Figure]]) -> Iterator[dict[str, Any]]:
    """Each claim with its numbers and figures."""
    for claim in claims.claims(found):
        mine = finished[finished["entry"].isin([entry.name for entry in claim.answering])]
        yield {
            "claim": claim,
            "table": comparison.table(claim.title, "", mine, claim.metrics),
            "figures": drawn.get(claim.key, []),
        }


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
    files = {name: paths.PROVENANCE / f"{name}.json" for name in ("download", "noise", "classify")}
    files |= {f"corrupt@{name}": paths.PROVENANCE / "corrupt" / f"{name}.json" for name in params.corruption.train}
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
    reference = params.corruption.reference
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
