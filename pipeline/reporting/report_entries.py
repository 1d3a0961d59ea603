"""The content of the report's pages, for one run of the pipeline or for a comparison of revisions.

An entry is the configuration of a model in `params.yaml`. A floor is an entry without training, such as PCA.
"""

import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from ruamel.yaml import YAML

from aelab.core import disk
from aelab.evaluation.metric_names import (
    ANOMALIES,
    CLASSIFIED,
    FACTORS,
    FITTED,
    GEOMETRY,
    IDENTITY,
    MEASURES,
    RECONSTRUCTION,
    REPRESENTATION,
    SAMPLES,
    UNIFORM,
    readable,
)
from aelab.report import floors, galleries, marks, report_charts, summary, tables
from aelab.report.claims import CLAIMS
from aelab.report.evidence import CLEAN, Evidence, noise_levels
from aelab.report.metrics import CODES, COST, HEADLINE, LIKELIHOOD, METRICS, OVERVIEW, metric
from aelab.report.pages import CAPTIONS
from aelab.report.tables import Table
from aelab.report.verdicts import Verdict, judge
from pipeline.common import paths
from pipeline.common.params import PARAMS, Params
from pipeline.reporting import results
from pipeline.reporting.results import ReportEntry

SERVER = "http://127.0.0.1:5000"  # address at which `make ui` serves MLflow
RUN = "#/experiments/1/runs?workflowType=machine_learning&searchFilter={}"  # MLflow's page of runs, filtered


def context(
    entries: Sequence[ReportEntry], rows: pd.DataFrame, folder: Path, pairs: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Write the report's charts, and return the values that the templates of the report need.

    Args:
        entries: the entries with their results, in the order of the page. The title and the notes of the page show the
            parameters of the first entry.
        rows: the table that `results.rows` returns for the entries.
        folder: folder to which the charts are written.
        pairs: pairs of entries to compare, by name. If empty, the page compares entries that differ in one key.
    """
    params = entries[0].params
    finished = rows[rows["status"] == "finished"]
    evidence = Evidence([entry.entry() for entry in entries], finished)
    examples = {entry.name: each for entry in entries if (each := entry.examples)}
    by_name = {entry.name: entry for entry in evidence.entries}
    wanted = [(by_name[before], by_name[after]) for before, after in pairs] or summary.siblings(evidence.entries)
    classified = disk.read_json(paths.CLASSIFIER / "metrics.json")
    trained = [pair for pair in wanted if not any(each.floor for each in pair)]
    shown = {entry.name: examples[entry.name] for entry in entries if not entry.floor and entry.name in examples}
    reference = f"{readable(params.corruption.reference.kind)} {params.corruption.reference.level}"
    picked = {entry.name: _picked(entry) for entry in entries}
    text = PARAMS.read_text(encoding="utf-8")
    return {
        "title": f"Autoencoders on {_images(params, evidence)}",
        "lead": _lead(entries),
        "evidence": evidence,
        "sentences": summary.sentences(evidence, reference, classified),
        "problems": [*_problems(entries), *filter(None, [marks.blown_up(evidence.entries)])],
        "names": marks.names(evidence.entries),
        "falling": marks.still_falling(evidence.entries),
        "seeds": len(params.seeds),
        "values": list(report_charts.values(evidence, folder, classified)),
        "gaps": list(report_charts.differences(evidence, folder)),
        "noise": list(report_charts.noise(evidence, folder)),
        "rates": list(report_charts.rate_distortion(evidence, folder)),
        "curves": [*report_charts.progress(evidence, folder), *report_charts.learning(evidence, picked, folder)],
        "galleries": list(galleries.reconstructions(examples, reference)),
        "sheets": list(galleries.sheets(shown)),
        "maps": list(report_charts.code_maps(evidence, examples, folder)),
        "maps_note": CAPTIONS["code_map"]["caption"],
        "codes": list(report_charts.code_use(evidence, examples, folder)),
        "differences": tables.differences({entry.name: entry.section for entry in entries}),
        "contrasts": [_contrast(each, entries) for each in summary.contrasts(evidence, trained)],
        "overview": _overview(entries, evidence),
        "tables": list(_tables(params, evidence, classified)),
        "claims": list(_claims(evidence, folder)),
        "sections": [_section(entry, finished) for entry in entries],
        "undefined": _undefined(entries),
        "metrics": {name: each for name, each in METRICS.items() if name in finished},
        "parameters": text,
        "fence": "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0)),
    }


def _picked(entry: ReportEntry) -> dict[str, list[int]]:
    """Return the step with the lowest validation loss, for each phase of the training and each finished seed."""
    phases = dict.fromkeys(phase for result in entry.finished for phase in result.outcome)
    return {phase: [result.outcome[phase]["best_step"] for result in entry.finished] for phase in phases}


def _images(params: Params, evidence: Evidence) -> str:
    """Return the text about the images for the title: the data set's name and the number of test images."""
    name = CAPTIONS["datasets"].get(params.dataset.name, params.dataset.name)
    drawn = {"none": "", "static": ", in black and white", "dynamic": ", in black and white"}[params.dataset.binarize]
    kept = [entry.images for entry in evidence.entries]
    counts = [len(values.columns) for images in kept for name, values in images.items() if name not in ANOMALIES]
    count = f"{max(counts):,} " if counts else ""
    return f"{name}{drawn} ({count}test images)"


def _lead(entries: Sequence[ReportEntry]) -> str:
    """Return the sentence under the title: number of entries and seeds, and the machine."""
    params, training = entries[0].params, entries[0].results[0].training
    seeds = f"means over {len(params.seeds)} seeds" if len(params.seeds) > 1 else "from one seed"
    trained = [entry for entry in entries if not entry.floor]
    below = [entry.name for entry in entries if entry.floor]
    return f"Entries of params.yaml: {len(trained)}, trained on {training['hardware']}. Numbers are {seeds}." + (
        f" Floors, without a training: {tables.listed(below)}." if below else ""
    )


def _steps(entry: ReportEntry) -> str:
    """Return the number of training steps of each phase, for the seed with the most steps."""
    phases: dict[str, int] = {}
    for result in entry.results:
        for point in result.curve:
            phases[point["phase"]] = max(point["step"], phases.get(point["phase"], 0))
    return " + ".join(f"{steps:,}" for steps in phases.values()) or "none"


def _problems(entries: Sequence[ReportEntry]) -> Iterator[str]:
    """Yield the warnings at the top of the report. Seeds with the same problem share a warning."""
    download = paths.PROVENANCE / "download.json"
    if left_out := disk.read_json(download).get("left_out"):
        yield f"files left out: {len(left_out)}; {download} lists them with the reasons"
    for entry in entries:
        found: dict[str, list[int]] = {}
        for result in entry.results:
            stopped = [f"{result.status}; no number below includes this seed"] if result.status != "finished" else []
            for text in (*result.symptoms, *stopped):
                found.setdefault(text, []).append(result.seed)
        for text, seeds in found.items():
            yield f"{entry.name}, seed{'s' * (len(seeds) > 1)} {tables.listed(seeds)}: {text}"


def _contrast(contrast: summary.Contrast, entries: Sequence[ReportEntry]) -> dict[str, Any]:
    """Return the section that compares two entries.

    The section has a table of the metrics that differ significantly or cannot be tested, and a list of all others.
    """
    before, after = (next(e for e in entries if e.name == each.name) for each in (contrast.before, contrast.after))
    told, links, readings = list[list[str]](), dict[str, str](), dict[str, list[str]]()
    for change in contrast.told:
        each = metric(change.name)
        heading, digits = tables.heading(each), each.digits
        by = ("+" if change.gap.mean > 0 else "") + tables.cell(change.gap, digits).replace("-", "−")
        told.append([heading, change.reading, by, *(tables.cell(v, digits) for v in (change.before, change.after))])
        readings.setdefault(change.reading, []).append(each.title)
        links[heading] = f"#metric-{change.name if change.name in METRICS else 'noise'}"
    return {
        "title": f"{before.name} → {after.name}",
        "parameters": [
            (key, _value(old, key, before), _value(new, key, after)) for key, old, new in contrast.parameters
        ],
        "links": links,
        "readings": readings,
        "table": Table("", "", ["", "result", "change", before.name, after.name], told) if told else None,
        "tied": [metric(change.name).title for change in contrast.tied],
    }


def _value(value: Any, key: str, entry: ReportEntry) -> str:
    """Return a parameter's value as text. For `inputs`, the text includes the kinds and levels of the noise."""
    if key != "inputs" or value == CLEAN:
        return "–" if value is None else str(value)
    noise = entry.params.corruption.train[value].noise
    return f"{value} ({', '.join(f'{readable(kind)} {level}' for kind, levels in noise.items() for level in levels)})"


def _overview(entries: Sequence[ReportEntry], evidence: Evidence) -> Table:
    """Return the first table of the report. Each entry has a row, and the floors come last.

    The columns are the size of the code, the number of times that the training saw each image, and the main metrics.
    """
    reference = entries[0].params.corruption.reference
    measured = tables.joined(tables.tables("", "", evidence, OVERVIEW), OVERVIEW)
    cells = {row[0]: row[1:] for row in measured.rows}
    rows = [
        [entry.name, entry.code_size.rpartition(": ")[2] or "–",
         "–" if math.isnan(entry.looks) else f"{entry.looks:.1f}",
         *cells.get(entry.name, ["diverged"] * len(measured.names))]
        for entry in sorted(evidence.entries, key=lambda entry: entry.floor)
    ]  # fmt: skip
    note = (
        f"Denoising MSE: {readable(reference.kind)} {reference.level}. Looks: how often training saw each image. "
        f"{tables.coverage(evidence, OVERVIEW)}"
    )
    header = ["", "code", "looks", *measured.header[1:]]
    return Table("At a glance", note, header, rows, ["", "", *measured.names], measured.floors)


def _tables(params: Params, evidence: Evidence, classified: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the tables of metrics. A table without values is left out."""
    reference = params.corruption.reference
    note = f"Denoising MSE: {readable(reference.kind)} {reference.level}."
    yield from tables.tables(
        "Reconstruction and denoising", note, evidence, (*RECONSTRUCTION, "denoising_mse", "copying_mse")
    )
    for pixels, comparable in tables.comparable(evidence, "neg_elbo"):
        note = "Per image: −ELBO = rate + distortion. Do not compare likelihoods across tables.  "
        note += floors.note(classified.get("floors", {}), str(pixels))
        yield from tables.tables(f"Likelihood: {pixels}", note, evidence.of(comparable), LIKELIHOOD, say_pixels=False)
    restored = (
        f"MSE between {params.evaluation.noisy_images:,} clean images and the reconstructions of their corrupted "
        "versions. The column MSE is without noise, over all images."
    )
    noise = noise_levels(evidence.results).items()
    for title, note, names in (
        ("Codes", "Use of the codes over the whole test split.", CODES),
        ("Representation", "Prediction of the images' classes from the codes.", (*REPRESENTATION, *CLASSIFIED)),
        ("Geometry", "Interpolations between the codes of test images.", GEOMETRY),
        ("Known factors", "How well single dimensions of the code predict the factors of the images.", FACTORS),
        ("Samples", _features(classified["metrics"]), (*SAMPLES, *FITTED, *UNIFORM)),
        ("Out-of-distribution inputs", "Reconstructions of noise and of photographs.", IDENTITY),
        *((f"Denoising: {readable(kind)}", restored, [name for _, name in levels]) for kind, levels in noise),
        ("Cost", "Cost of one seed.", COST),
        ("Validation", "Metrics on the validation split, which select the settings.",
         [f"validation_{name}" for name in HEADLINE]),
    ):  # fmt: skip
        yield from tables.tables(title, note, evidence, names)
    yield from _anomalies(params, evidence)


def _anomalies(params: Params, evidence: Evidence) -> Iterator[Table]:
    """Yield two tables: the AUROC and the average precision of each score that separates anomalies from test images.

    In the row of the floor `identity`, the scores are computed from the raw pixels, not from a model.
    """
    if not (chosen := params.dataset.anomalies):
        return
    what = chosen if isinstance(chosen, str) else f"the held-out class {tables.listed(chosen)}"
    note = f"Anomalies: {what}, against test images. A dash: the model lacks the score. identity: scores of raw pixels."
    for title, measure in zip(("Anomalies", "Anomalies, average precision"), MEASURES, strict=True):
        names = [name for name in ANOMALIES if name.startswith(f"{measure}_")]
        if parts := tables.tables("", "", evidence, names):
            whole = tables.joined(parts, names)
            said = f"{note} {tables.coverage(evidence, names)}"
            yield Table(title, said, whole.header, whole.rows, whole.names, whole.floors)


def _features(measured: Mapping[str, float]) -> str:
    """Return the note on the classifier. The Fréchet distance compares the classifier's features."""
    if not measured:
        return "There is no classifier, so there are no features."
    return (
        f"A classifier with {measured['classifier_accuracy']:.2f} % accuracy on the test images gives the features. "
        f"With training images in place of samples, the Fréchet distance is {measured['frechet_floor']:.2f}."
    )


def _claims(evidence: Evidence, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield each claim with its verdict, numbers and figures."""
    figures = {"memory": list(report_charts.generalisation(evidence, folder))}
    for claim in CLAIMS:
        judgement = judge(claim, evidence)
        below = [entry for entry in evidence.entries if entry.floor]
        mine = evidence.of([*evidence.group(claim.entries), *below])
        measured = judgement.verdict is not Verdict.UNTESTED
        yield {
            "claim": claim,
            "judgement": judgement,
            "tables": tables.tables(claim.title, "", mine, claim.table) if measured else [],
            "figures": figures.get(claim.key, []),
        }


def _section(entry: ReportEntry, finished: pd.DataFrame) -> dict[str, Any]:
    """Return an entry's section of the report: the model, the metrics of each seed, and the origin of the metrics."""
    result, training = entry.results[0], entry.results[0].training
    mine = finished[finished["entry"] == entry.name].set_index("seed")
    names = [name for name in HEADLINE if name in mine and mine[name].notna().any()]
    labels = {each.seed: "every seed" if entry.floor else f"seed {each.seed}" for each in entry.results}
    seeds = [
        [labels[seed], *(f"{mine.loc[seed, name]:,.{metric(name).digits}f}" for name in names)] for seed in mine.index
    ]
    commit, parameters = training["commit"], io.StringIO()
    YAML(pure=True).dump({result.entry: dict(entry.section)}, parameters)
    return {
        "title": entry.name,
        "about": result.about + ("" if entry.finished else " No seed finished."),
        "seeds": Table("", "", ["", *(metric(name).title for name in names)], seeds, names) if seeds else None,
        "links": {labels[each.seed]: _run(each.cost["fingerprint"]) for each in entry.results},
        "origin": {
            "commit": commit,
            "uncommitted changes": ", ".join(training["uncommitted_changes"]) or "none",
            "steps": _steps(entry),
            "trained at": training["started"],
            "hardware": f"{training['hardware']}, {training['precision']}, {training['mode']}",
            "software": f"Python {training['python']}, torch {training['packages']['torch']}",
            "data": f"{entry.params.dataset.name}; training split {result.data_digest}, the other splits: see dvc.lock",
            "parameters": f"digest {results.parameters_digest(result)}",
            "weights": f"{paths.MODELS / result.entry}/seed{result.seed}.safetensors, a file for each seed",
            "all metrics": f"{paths.EVALUATION / result.entry}/metrics.json",
            "command to repeat": f"git checkout {commit[:12]} && dvc repro --force evaluate@{result.entry}",
        },
        "parameters": parameters.getvalue(),
    }


def _run(fingerprint: str) -> str:
    """Return the address of MLflow's page about a training. The fingerprint identifies the training."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    server = uri.rstrip("/") if uri.startswith("http") else SERVER
    wanted = quote(f"tags.training = '{fingerprint}'")
    return f"{server}/{RUN.format(wanted)}"


def _undefined(entries: Sequence[ReportEntry]) -> list[tuple[str, list[str]]]:
    """Return each reason why metrics are undefined, with the names of the metrics and entries."""
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
