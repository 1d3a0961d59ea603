"""report: set all variants side by side, as CSV, Markdown and one HTML file, and hand the results to MLflow."""

import shutil
import subprocess
import sys
from typing import Any

import pandas as pd
import typer
from safetensors.numpy import load_file

from autoencoders import figures, report
from autoencoders.report import Figure, Section
from pipeline import paths, results, stage
from pipeline.params import PARAMS, Params
from pipeline.results import Result

CAPTIONS = {
    "reconstructions": "Test images above, what the model gives back below.",
    "denoising": "Each corruption of the test images, and what the model makes of it.",
    "interpolation": "Straight lines from one image's code to another's.",
    "traversal": "The dial: one number of one image's code turned over ±3 standard deviations, the rest left alone.",
    "samples": "Images drawn from the model's prior.",
    "code_usage": "How often each code of the codebook is used over the whole test set.",
    "learning_curves": "Loss per epoch; the dot marks the epoch whose weights validation picked.",
}
CLAIMS = (
    (
        "A plain autoencoder drifts to the identity, denoising cures it.",
        "Is the output for a corrupted image nearer to the clean one (first column) or to the corrupted one (second)?",
    ),
    (
        "It memorises its input.",
        "How much larger is the error on test images than on training images (third column; 1 is no memorising)?",
    ),
    (
        "Discrete codes avoid posterior collapse.",
        "How many latent dimensions are active, how many codes in use?",
    ),
    (
        "The encoder's output stays close to the codebook.",
        "How far is it from its code, relative to its own length (last column)?",
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
    """Write the three reports and the figures that they show."""
    collected = results.collect(params)
    rows = pd.DataFrame([_row(params, result) for result in collected])
    paths.REPORTS.mkdir(exist_ok=True)
    rows.to_csv(paths.REPORTS / "comparison.csv", index=False, na_rep="n/a")

    folder = paths.REPORTS / "figures"
    shutil.rmtree(folder, ignore_errors=True)
    context = _context(params, collected, rows)
    for extension in ("md", "html"):
        text = report.render(f"comparison.{extension}.j2", context)
        (paths.REPORTS / f"comparison.{extension}").write_text(text, encoding="utf-8")
    print((paths.REPORTS / "comparison.md").read_text(encoding="utf-8").split("### ")[1])


def _row(params: Params, result: Result) -> dict[str, Any]:
    """One row of the CSV: what was measured, what it cost, where it comes from."""
    reference = params.corruption.train.name
    metrics = dict.fromkeys((*report.RECONSTRUCTION, *report.LIKELIHOOD, *report.CODES), float("nan")) | result.metrics
    if result.metrics:
        metrics["denoising_mse"] = metrics[f"denoising_{reference}"]
        metrics["copying_mse"] = metrics[f"copying_{reference}"]
        metrics["generalisation"] = metrics["mse"] / metrics["train_mse"]
    metrics = {
        name: value for name, value in metrics.items() if not name.startswith("copying_") or name == "copying_mse"
    }
    return {
        "variant": result.variant,
        "seed": result.seed,
        "status": result.status,
        **metrics,
        **results.costs(result),
        "best_epochs": "/".join(str(phase["best_epoch"]) for phase in result.outcome.values()),
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


def _context(params: Params, collected: list[Result], rows: pd.DataFrame) -> dict[str, Any]:
    """What the templates show."""
    finished = rows[rows["status"] == "finished"]
    likelihoods = [section["likelihood"] for section in params.variants.values() if "likelihood" in section]

    def table(title: str, note: str, columns: dict[str, report.Column]) -> report.Table:
        return report.table(title, note, finished, columns, likelihoods)

    noise = {
        name: report.Column(name.removeprefix("denoising_").replace("_", " ").replace("-", " "), 5, "lower")
        for name in map(str, finished)
        if name.startswith("denoising_") and name != "denoising_mse"
    }
    claims = {
        "denoising_mse": report.Column("to the clean image", 5),
        "copying_mse": report.Column("to the corrupted image", 5),
        "generalisation": report.Column("test ÷ training MSE", 3),
        **report.CODES,
    }
    reference = params.corruption.train
    return {
        "title": f"Autoencoders on {params.dataset.name}",
        "summary": (
            f"{len(params.variants)} variants, each trained with {len(params.seeds)} seeds. Weights were picked on the "
            "validation split; every number is from the test split. Mean ± standard deviation over the seeds; the best "
            "mean in bold. No ± where all seeds agree."
        ),
        "problems": [
            f"{r.variant}, seed {r.seed}: {r.status}; it counts nowhere below"
            for r in collected
            if r.status != "finished"
        ],
        "tables": [
            table("At a glance", f"Denoising MSE: {reference.kind} at level {reference.level}.", report.HEADLINE),
            table(
                "Reconstruction",
                "Per image, over all its dimensions; PSNR is the mean of the images' PSNRs.",
                report.RECONSTRUCTION,
            ),
            table("Likelihood", "In nats per image: −ELBO = rate + distortion.", report.LIKELIHOOD),
            table("Codes", "Over the whole test set.", report.CODES),
            table("Denoising", "MSE between what the model makes of the corrupted image and the clean one.", noise),
            table("Cost", "Of one seed; the memory is that of the whole process.", report.COST),
        ],
        "figures": _comparison(params, collected),
        "claims": CLAIMS,
        "claims_table": table("In numbers", f"Corrupted images: {reference.kind} at level {reference.level}.", claims),
        "sections": [_section(name, collected) for name in params.variants],
        "undefined": _undefined(collected),
        "provenance": _provenance(params, collected),
        "parameters": PARAMS.read_text(encoding="utf-8"),
        "folder": paths.REPORTS,
    }


def _provenance(params: Params, collected: list[Result]) -> list[report.Table]:
    """Where each variant's numbers come from, and what each stage took."""
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
        for name, training in {result.variant: result.training for result in collected}.items()
    ]
    header = ["", "commit", "uncommitted changes", "trained at", "on", "precision, mode", "with"]
    data = f"Data: {params.dataset.name}, DVC hash {collected[0].data_digest} (training split)."
    stages = ["download", "corrupt", *(f"{kind}/{name}" for name in params.variants for kind in ("train", "evaluate"))]
    seconds = {name: stage.read_json(paths.PROVENANCE / f"{name}.json")["seconds"] for name in stages}
    took = [[name.replace("/", "@"), f"{value:,.1f}"] for name, value in seconds.items()]
    return [
        report.Table("Trained", data, header, trained),
        report.Table("Seconds", "Of each stage's own work, all seeds together.", ["", "seconds"], took),
    ]


def _comparison(params: Params, collected: list[Result]) -> list[Figure]:
    """The same test images as every variant gives them back, clean and corrupted."""
    shown = [result for name in params.variants if (result := _shown(name, collected))]
    examples = {result.variant: load_file(result.folder / "examples.safetensors") for result in shown}
    if not examples:
        return []
    reference = params.corruption.train
    sheets = (
        (
            "reconstructions",
            "Reconstructions",
            "original",
            "reconstruction",
            "Test images, and what each variant gives back.",
        ),
        (
            "denoising",
            "Denoising",
            "corrupted",
            "restored",
            f"Test images after {reference.kind} at level {reference.level}, and what each variant makes of them.",
        ),
    )
    made = []
    for name, title, above, below, caption in sheets:
        path = paths.REPORTS / "figures" / f"{name}.png"
        first = next(iter(examples.values()))
        figures.images([(above, first[above]), *((variant, each[below]) for variant, each in examples.items())], path)
        made.append(Figure(title, path, caption))
    return made


def _shown(variant: str, collected: list[Result]) -> Result | None:
    """The seed whose figures stand for a variant: its first one that finished."""
    return next((r for r in collected if r.variant == variant and r.status == "finished"), None)


def _section(variant: str, collected: list[Result]) -> Section:
    """A variant's own figures, of its first seed that finished."""
    about = next(result.about for result in collected if result.variant == variant)
    result = _shown(variant, collected)
    if result is None:
        return Section(variant, f"{about} No seed finished.")
    shown = []
    for name, caption in CAPTIONS.items():
        source = result.folder / f"{name}.png"
        if source.exists():
            path = paths.REPORTS / "figures" / variant / source.name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
            shown.append(Figure(name.replace("_", " ").capitalize(), path, caption))
    return Section(variant, f"{about} Figures of seed {result.seed}.", shown)


def _undefined(collected: list[Result]) -> list[tuple[str, list[str]]]:
    """The reasons for every n/a, each with what it is the reason for."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for result in collected:
        for name, reason in result.undefined.items():
            variants_of = reasons.setdefault(reason, {}).setdefault(name.replace("_", " "), [])
            if result.variant not in variants_of:
                variants_of.append(result.variant)
    return [(reason, [f"{name} ({', '.join(names)})" for name, names in of.items()]) for reason, of in reasons.items()]


if __name__ == "__main__":
    typer.run(lambda: stage.run(work, None, variants=False))
