"""What the pages of the report show: of one run of the pipeline, or of two revisions beside each other."""

import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from ruamel.yaml import YAML

from aelab.core import disk
from aelab.evaluation.metric_names import (
    FACTORS,
    FITTED,
    GEOMETRY,
    IDENTITY,
    REPRESENTATION,
    SAMPLES,
    UNIFORM,
    readable,
)
from aelab.report import galleries, report_charts, summary, tables
from aelab.report.claims import CLAIMS
from aelab.report.evidence import CLEAN, Evidence, noise_levels
from aelab.report.metrics import CODES, COST, HEADLINE, LIKELIHOOD, METRICS, metric
from aelab.report.tables import Table
from aelab.report.verdicts import Verdict, judge
from pipeline.common import paths
from pipeline.common.params import PARAMS, Params
from pipeline.reporting import results
from pipeline.reporting.results import ReportEntry

SERVER = "http://127.0.0.1:5000"  # where `make ui` shows the runs
RUN = "#/experiments/1/runs?workflowType=machine_learning&searchFilter={}"


def context(
    entries: Sequence[ReportEntry], rows: pd.DataFrame, folder: Path, pairs: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """What the templates show.

    Args:
        entries: in the order of the page; the first one's parameters are those of the page.
        rows: their `results.rows`.
        folder: of the charts.
        pairs: names of entries to set against each other, beside those that differ under one key.
    """
    params = entries[0].params
    finished = rows[rows["status"] == "finished"]
    evidence = Evidence([entry.entry() for entry in entries], finished)
    examples = {entry.name: each for entry in entries if (each := entry.examples)}
    by_name = {entry.name: entry for entry in evidence.entries}
    wanted = [(by_name[before], by_name[after]) for before, after in pairs] or summary.siblings(evidence.entries)
    reference = f"{readable(params.corruption.reference.kind)} {params.corruption.reference.level}"
    picked = {entry.name: _picked(entry) for entry in entries}
    text = PARAMS.read_text(encoding="utf-8")
    return {
        "title": f"Autoencoders on {params.dataset.name}",
        "lead": _lead(entries),
        "sentences": summary.sentences(evidence, reference),
        "problems": list(_problems(entries)),
        "seeds": len(params.seeds),
        "values": list(report_charts.values(evidence, folder)),
        "gaps": list(report_charts.differences(evidence, folder)),
        "noise": list(report_charts.noise(evidence, folder)),
        "rates": list(report_charts.rate_distortion(evidence, folder)),
        "curves": [*report_charts.progress(evidence, folder), *report_charts.learning(evidence, picked, folder)],
        "galleries": list(galleries.reconstructions(examples, reference)),
        "sheets": list(galleries.sheets(examples)),
        "codes": list(report_charts.code_use(evidence, examples, folder)),
        "differences": tables.differences({entry.name: entry.section for entry in entries}),
        "contrasts": [_contrast(each, entries) for each in summary.contrasts(evidence, wanted)],
        "tables": list(_tables(params, entries, finished)),
        "claims": list(_claims(evidence, folder)),
        "sections": [_section(entry, finished) for entry in entries],
        "undefined": _undefined(entries),
        "metrics": {name: each for name, each in METRICS.items() if name in finished},
        "parameters": text,
        "fence": "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0)),
    }


def _picked(entry: ReportEntry) -> dict[str, list[int]]:
    """By phase the step of every seed whose weights validation picked."""
    phases = dict.fromkeys(phase for result in entry.finished for phase in result.outcome)
    return {phase: [result.outcome[phase]["best_step"] for result in entry.finished] for phase in phases}


def _lead(entries: Sequence[ReportEntry]) -> str:
    """What the page is about, in a line."""
    params, training = entries[0].params, entries[0].results[0].training
    seeds = f"{len(params.seeds)} seeds" if len(params.seeds) > 1 else "one seed"
    return (
        f"{len(entries)} models, entries of params.yaml, {seeds} each, on {training['hardware']}. Trained for "
        f"{', '.join(f'{entry.name} {_steps(entry)}' for entry in entries)} steps."
    )


def _steps(entry: ReportEntry) -> str:
    """The steps of each phase, where any seed has got so far."""
    phases: dict[str, int] = {}
    for result in entry.results:
        for point in result.curve:
            phases[point["phase"]] = max(point["step"], phases.get(point["phase"], 0))
    return " + ".join(f"{steps:,}" for steps in phases.values())


def _problems(entries: Sequence[ReportEntry]) -> Iterator[str]:
    download = paths.PROVENANCE / "download.json"
    if left_out := disk.read_json(download).get("left_out"):
        yield f"{len(left_out)} files were left out; {download} lists them with the reasons"
    for entry in entries:
        for result in entry.results:
            yield from (f"{entry.name}, seed {result.seed}: {symptom}" for symptom in result.symptoms)
            if result.status != "finished":
                yield f"{entry.name}, seed {result.seed}: {result.status}; it counts nowhere below"


def _contrast(contrast: summary.Contrast, entries: Sequence[ReportEntry]) -> dict[str, Any]:
    """What one setting changed, as a table of what can be told and a list of what cannot."""
    before, after = (next(e for e in entries if e.name == each.name) for each in (contrast.before, contrast.after))
    told, links = list[list[str]](), dict[str, str]()
    for change in contrast.told:
        each = metric(change.name)
        heading, digits = tables.heading(each), each.digits
        by = ("+" if change.gap.mean > 0 else "") + tables.cell(change.gap, digits).replace("-", "−")
        told.append([heading, change.reading, by, *(tables.cell(v, digits) for v in (change.before, change.after))])
        links[heading] = f"#metric-{change.name if change.name in METRICS else 'noise'}"
    return {
        "title": f"{before.name} → {after.name}",
        "parameters": [
            (key, _value(old, key, before), _value(new, key, after)) for key, old, new in contrast.parameters
        ],
        "links": links,
        "table": Table("", "", ["", "is", "by", before.name, after.name], told) if told else None,
        "tied": [metric(change.name).title for change in contrast.tied],
    }


def _value(value: Any, key: str, entry: ReportEntry) -> str:
    """A parameter's value; of `inputs` also the noise that the name stands for."""
    if key != "inputs" or value == CLEAN:
        return "–" if value is None else str(value)
    noise = entry.params.corruption.train[value].noise
    return f"{value} ({', '.join(f'{readable(kind)} {level}' for kind, levels in noise.items() for level in levels)})"


def _tables(params: Params, entries: Sequence[ReportEntry], finished: pd.DataFrame) -> Iterator[Table]:
    """The results; a table that has nothing to show is left out."""
    reference = params.corruption.reference
    note = f"Denoising MSE: {reference.kind} at level {reference.level}."
    glance = tables.tables("At a glance", note, finished, HEADLINE)
    glance = glance or [Table("At a glance", note, ["", "status"], [])]
    diverged = [entry.name for entry in entries if not entry.finished]
    glance[0].rows.extend([name, *(["diverged"] * (len(glance[0].header) - 1))] for name in diverged)
    yield from glance
    for pixels in finished.loc[finished["neg_elbo"].notna(), "pixels"].unique():
        of_one_kind = finished[finished["pixels"] == pixels]
        note = "Per image: −ELBO = rate + distortion. No other table's likelihoods are comparable with these."
        yield from tables.tables(f"Likelihood: {pixels}", note, of_one_kind, LIKELIHOOD, say_pixels=False)
    restored = (
        f"MSE to the clean images of what is made of {params.evaluation.noisy_images:,} corrupted ones; first that of "
        "all without noise."
    )
    noise = noise_levels(finished).items()
    for title, note, names in (
        ("Codes", "Over the whole test set.", CODES),
        ("Representation", "Of the codes of frozen models, for the images' classes.", REPRESENTATION),
        ("Geometry", "Codes of test images, mixed.", GEOMETRY),
        ("Known factors", "What single dimensions of the code say of what the images were drawn from.", FACTORS),
        ("Samples", _features(), (*SAMPLES, *FITTED, *UNIFORM)),
        ("Out-of-distribution inputs", "What a model gives back of noise and of photographs.", IDENTITY),
        *((f"Denoising: {readable(kind)}", restored, [name for _, name in levels]) for kind, levels in noise),
        ("Cost", "Of one seed.", COST),
        ("Validation", "The first table on the validation split. By these, settings are picked.",
         [f"validation_{name}" for name in HEADLINE]),
    ):  # fmt: skip
        yield from tables.tables(title, note, finished, names)


def _features() -> str:
    """What the features are worth in which samples are compared with images."""
    measured = disk.read_json(paths.CLASSIFIER / "metrics.json")["metrics"]
    if not measured:
        return "There is no classifier to take features from."
    return (
        f"In the features of a classifier that puts {measured['classifier_accuracy']:.2f} % of the test images into "
        f"their class. Between as many training images and the test images the Fréchet distance is "
        f"{measured['frechet_floor']:.2f}."
    )


def _claims(evidence: Evidence, folder: Path) -> Iterator[dict[str, Any]]:
    """Each claim with its verdict, numbers and figures."""
    figures = {"memory": list(report_charts.generalisation(evidence, folder))}
    for claim in CLAIMS:
        judgement = judge(claim, evidence)
        mine = [entry.name for entry in evidence.group(claim.entries)]
        rows = evidence.results[evidence.results["entry"].isin(mine)]
        measured = judgement.verdict is not Verdict.UNMEASURED
        yield {
            "claim": claim,
            "judgement": judgement,
            "tables": tables.tables(claim.title, "", rows, claim.table) if measured else [],
            "figures": figures.get(claim.key, []),
        }


def _section(entry: ReportEntry, finished: pd.DataFrame) -> dict[str, Any]:
    """An entry: what it is, every seed's numbers, and where they come from."""
    result, training = entry.results[0], entry.results[0].training
    mine = finished[finished["entry"] == entry.name].set_index("seed")
    names = [name for name in HEADLINE if name in mine and mine[name].notna().any()]
    seeds = [
        [f"seed {seed}", *(f"{mine.loc[seed, name]:,.{metric(name).digits}f}" for name in names)] for seed in mine.index
    ]
    commit, parameters = training["commit"], io.StringIO()
    YAML(pure=True).dump({result.entry: dict(entry.section)}, parameters)
    return {
        "title": entry.name,
        "about": result.about + ("" if entry.finished else " No seed finished."),
        "seeds": Table("", "", ["", *(metric(name).title for name in names)], seeds, names) if seeds else None,
        "links": {f"seed {each.seed}": _run(each.cost["fingerprint"]) for each in entry.results},
        "origin": {
            "commit": commit,
            "uncommitted changes": ", ".join(training["uncommitted_changes"]) or "none",
            "trained at": training["started"],
            "on": f"{training['hardware']}, {training['precision']}, {training['mode']}",
            "with": f"Python {training['python']}, torch {training['packages']['torch']}",
            "data": f"{entry.params.dataset.name}; training split {result.data_digest}, the others in dvc.lock",
            "parameters": f"digest {results.parameters_digest(result)}",
            "weights": f"{paths.MODELS / result.entry}/seed{result.seed}.safetensors, and so on",
            "every metric": f"{paths.EVALUATION / result.entry}/metrics.json",
            "again": f"git checkout {commit[:12]} && dvc repro --force evaluate@{result.entry}",
        },
        "parameters": parameters.getvalue(),
    }


def _run(fingerprint: str) -> str:
    """The address of a training's run in MLflow."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    server = uri.rstrip("/") if uri.startswith("http") else SERVER
    wanted = quote(f"tags.training = '{fingerprint}'")
    return f"{server}/{RUN.format(wanted)}"


def _undefined(entries: Sequence[ReportEntry]) -> list[tuple[str, list[str]]]:
    """The reasons for every value that is not there, each with what it is the reason for and of whom."""
    found = [
        (reason, METRICS[name].title if name in METRICS else name.replace("_", " "), entry.name)
        for entry in entries
        for name, reason in {name: why for r in entry.results for name, why in r.undefined.items()}.items()
    ]
    table = pd.DataFrame(found, columns=["reason", "metric", "entry"])
    entries_of = table.groupby(["reason", "metric"], sort=False)["entry"].agg(", ".join).reset_index()
    metrics_of = entries_of.groupby(["reason", "entry"], sort=False)["metric"].agg(", ".join).reset_index()
    metrics_of["text"] = metrics_of["metric"] + " (" + metrics_of["entry"] + ")"
    return [(str(reason), list(texts)) for reason, texts in metrics_of.groupby("reason", sort=False)["text"]]
