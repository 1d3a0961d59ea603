"""What the pages of the comparison show: of one run of the pipeline, or of two revisions beside each other."""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from autoencoders import charts, claims, comparison, disk, metrics, summary
from autoencoders.claims import noises
from autoencoders.comparison import Figure, Gallery, Section, Strip, Table
from autoencoders.evidence import CLEAN, Entry, Evidence
from autoencoders.metrics import readable
from pipeline import evidence, paths, results
from pipeline.params import PARAMS, Params
from pipeline.results import Result

Examples: TypeAlias = dict[str, NDArray[Any]]
SHEETS = {
    "samples": ("Samples", "Images drawn from each entry's prior."),
    "interpolation": ("Interpolation", "Each row is a straight line from one image's code to another's, decoded."),
    "traversal": (
        "Traversal",
        "One dimension of one image's code turned over ±3 standard deviations, a row for each; those that vary most.",
    ),
}
SERVER = "http://127.0.0.1:5000"  # where `make ui` shows the runs
RUN = "#/experiments/1/runs?workflowType=machine_learning&searchFilter={}"
GROUPS = (metrics.RECONSTRUCTION, metrics.LIKELIHOOD, metrics.CODES, metrics.IDENTITY, metrics.GEOMETRY,
          metrics.REPRESENTATION, metrics.SAMPLES)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """An entry under the name that the page gives it."""

    name: str
    params: Params
    results: Sequence[Result]

    @property
    def section(self) -> Mapping[str, Any]:
        """Of `variants` in its parameters."""
        section: Mapping[str, Any] = self.params.variants[self.results[0].entry]
        return section

    @property
    def finished(self) -> list[Result]:
        """Its seeds that did; the first stands for it in the figures."""
        return [result for result in self.results if result.status == "finished"]

    @property
    def examples(self) -> Examples:
        """Images of its first seed that finished, as numbers from 0 to 255, and what else there is to draw."""
        if not self.finished:
            return {}
        return load_file(self.finished[0].folder / "examples.safetensors")

    def entry(self) -> Entry:
        """What the claims are judged by."""
        inputs = self.section["inputs"]
        return Entry(
            self.name,
            pixels=next((result.pixels for result in self.finished), None),
            parameters=dict(comparison.flattened(self.section)),
            noise=() if inputs == CLEAN else tuple(self.params.corruption.train[inputs].noise),
            curves=[result.curve for result in self.finished],
        )


def shown(params: Params) -> list[Shown]:
    """The entries of one run."""
    collected = results.collect(params)
    return [Shown(name, params, [r for r in collected if r.entry == name]) for name in params.variants]


def rows(entries: Sequence[Shown]) -> pd.DataFrame:
    """One row for each entry and seed: what was measured, what it cost and where it comes from."""
    return pd.DataFrame([_row(entry.name, result) for entry in entries for result in entry.results])


def _row(name: str, result: Result) -> dict[str, Any]:
    """What was measured, on the test split unless named."""
    validation = {f"validation_{name}": value for name, value in result.metrics.get("validation", {}).items()}
    measured = {
        **{name: float("nan") for group in GROUPS for name in group},
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
    model = result.parameters[f"variants.{result.entry}"]["model"]
    which = {"entry": name, "model": model, "seed": result.seed, "status": result.status}
    return {name: comparison.spreadsheet(value) for name, value in (which | measured | trained).items()}


def context(
    entries: Sequence[Shown], table: pd.DataFrame, folder: Path, pairs: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """What the templates show.

    Args:
        entries: in the order of the page; the first one's parameters are those of the page.
        table: their `rows`.
        folder: of the charts.
        pairs: names of entries to set against each other, beside those that differ under one key.
    """
    params = entries[0].params
    finished = table[table["status"] == "finished"]
    found = Evidence([entry.entry() for entry in entries], finished)
    by_name = {entry.name: entry for entry in found.entries}
    reference = f"{readable(params.corruption.reference.kind)} {params.corruption.reference.level}"
    wanted = [(by_name[before], by_name[after]) for before, after in pairs] or summary.siblings(found.entries)
    text = PARAMS.read_text(encoding="utf-8")
    return {
        "title": f"Autoencoders on {params.dataset.name}",
        "lead": _lead(entries),
        "sentences": summary.sentences(found, reference),
        "problems": list(_problems(entries)),
        "reading": _reading(params),
        "values": list(evidence.values(found, folder)),
        "gaps": list(evidence.differences(found, folder)),
        "noise": list(evidence.noise(found, folder)),
        "rates": list(evidence.rate_distortion(found, folder)),
        "curves": [*evidence.progress(found, folder), *_curves(entries, found, folder)],
        "galleries": list(_galleries(entries, reference)),
        "sheets": list(_sheets(entries)),
        "codes": list(_codes(entries, found, folder)),
        "differences": comparison.differences({entry.name: entry.section for entry in entries}),
        "contrasts": [_shown_contrast(each, entries) for each in summary.contrasts(found, wanted)],
        "tables": list(_tables(entries, finished)),
        "claims": list(_claims(found, finished, evidence.claimed(found, folder))),
        "sections": [_section(entry, finished) for entry in entries],
        "undefined": _undefined(entries),
        "metrics": {name: each for name, each in metrics.METRICS.items() if name in finished},
        "provenance": _provenance(params),
        "parameters": text,
        "fence": "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0)),
    }


def _lead(entries: Sequence[Shown]) -> str:
    """What the page is about, in a line."""
    params, training = entries[0].params, entries[0].results[0].training
    seeds = f"{len(params.seeds)} seeds" if len(params.seeds) > 1 else "one seed"
    return (
        f"{len(entries)} models, entries of params.yaml, {seeds} each, on {training['hardware']}. Trained for "
        f"{', '.join(f'{entry.name} {_steps(entry)}' for entry in entries)} steps."
    )


def _steps(entry: Shown) -> str:
    """The steps of each phase, where any seed has got so far."""
    phases: dict[str, int] = {}
    for result in entry.results:
        for point in result.curve:
            phases[point["phase"]] = max(point["step"], phases.get(point["phase"], 0))
    return " + ".join(f"{steps:,}" for steps in phases.values())


def _problems(entries: Sequence[Shown]) -> Iterator[str]:
    for entry in entries:
        for result in entry.results:
            yield from (f"{entry.name}, seed {result.seed}: {symptom}" for symptom in result.symptoms)
            if result.status != "finished":
                yield f"{entry.name}, seed {result.seed}: {result.status}; it counts nowhere below"


def _reading(params: Params) -> str:
    """How to read all numbers."""
    picked = "Weights were picked on the validation split; numbers are from the test split unless they say otherwise. "
    if len(params.seeds) == 1:
        return f"{picked}One seed gives no interval, so that nothing is best and nothing in bold."
    return (
        f"{picked}Mean ± 95 % interval over the {len(params.seeds)} seeds (Student's t), no ± where there is one or "
        "all agree. Bold: the best mean, and every entry that ties with it, which is to say that the interval of its "
        "difference to the best, seed by seed, holds 0. An entry with one seed is not ranked. The claims below ask for "
        "more where the best of several entries is compared."
    )


def _curves(entries: Sequence[Shown], found: Evidence, folder: Path) -> Iterator[Figure]:
    """Every phase of every entry's training."""
    for entry in entries:
        phases = dict.fromkeys(phase for result in entry.finished for phase in result.outcome)
        for phase in phases:
            curves = [[point for point in result.curve if point["phase"] == phase] for result in entry.finished]
            best = [result.outcome[phase]["best_step"] for result in entry.finished]
            path = folder / entry.name / f"learning_{phase}.svg"
            charts.learning(curves, best, evidence.styles(found)[entry.name], path)
            title = entry.name if phase == "autoencoder" else f"{entry.name}, {phase}"
            yield Figure(title, path, "Loss by step, seconds above. Large mark: the weights that validation picked.")


def _galleries(entries: Sequence[Shown], reference: str) -> Iterator[Gallery]:
    """The same test images as every entry gives them back, clean and under each kind of noise."""
    examples = {entry.name: each for entry in entries if (each := entry.examples)}
    if not examples:
        return
    first = next(iter(examples.values()))
    yield _gallery(
        "Reconstructions", "Test images, and what each entry gives back.", ("original", first["original"]),
        {name: each["reconstruction"] for name, each in examples.items()},
    )  # fmt: skip
    yield _gallery(
        f"Denoising: {reference}", "Test images under the reference corruption, and what each entry makes of them.",
        ("corrupted", first["corrupted"]), {name: each["restored"] for name, each in examples.items()},
    )  # fmt: skip
    for key, corruption in _middle(first, reference):
        restored = {name: each.get(_next(key)) for name, each in examples.items()}
        yield _gallery(
            f"Denoising: {corruption}", "Test images under this noise, and what each entry makes of them.",
            ("corrupted", first[key]), {name: each for name, each in restored.items() if each is not None},
        )  # fmt: skip


def _middle(examples: Examples, reference: str) -> Iterator[tuple[str, str]]:
    """Of each kind of noise that the reference is not of, the middle one of the levels that were drawn."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(examples):
        if key.startswith("denoising/") and (words := key.rpartition("/")[2]) not in {"original", "restored"}:
            kinds.setdefault(words.rpartition(" ")[0], []).append((key, words))
    return (levels[len(levels) // 2] for kind, levels in kinds.items() if not reference.startswith(kind))


def _next(key: str) -> str:
    """The row below a corrupted one."""
    figure, row, _ = key.split("/")
    return f"{figure}/{int(row) + 1:02d}/restored"


def _gallery(title: str, caption: str, above: tuple[str, NDArray[Any]], below: Mapping[str, NDArray[Any]]) -> Gallery:
    what = title.lower()
    strips = [Strip(above[0], f"{above[0]} test images", above[1][None])]
    strips += [Strip(name, f"{what}: by {name}", images[None]) for name, images in below.items()]
    return Gallery(title, caption, strips)


def _sheets(entries: Sequence[Shown]) -> Iterator[Gallery]:
    """What each entry draws of itself, entries beside each other."""
    examples = {entry.name: entry.examples for entry in entries}
    for figure, (title, caption) in SHEETS.items():
        sheets = {
            name: np.stack([each[key] for key in keys])
            for name, each in examples.items()
            if (keys := sorted(key for key in each if key.startswith(f"{figure}/")))
        }
        strips = [Strip(name, f"{title.lower()} of {name}", images) for name, images in sheets.items()]
        if strips:
            yield Gallery(title, caption, strips)


def _codes(entries: Sequence[Shown], found: Evidence, folder: Path) -> Iterator[Figure]:
    """How much of its code each entry uses."""
    drawn = (
        ("kl_per_dimension", "KL of each latent dimension", "latent dimensions, largest rate first", "KL (nats)",
         "KL(q(z|x) ‖ p(z)) of each latent dimension; one without any has collapsed."),
        ("code_usage", "Use of each code", "codes, most used first", "share of positions (%)",
         "How often each code of the codebook is used over the whole test set."),
    )  # fmt: skip
    for entry in entries:
        examples = entry.examples
        for key, title, across, up, caption in drawn:
            if key not in examples:
                continue
            heights, reference = examples[key].astype(np.float64), None
            if key == "code_usage":
                heights, reference = 100 * heights / heights.sum(), ("uniform use", 100 / len(heights))
            path = folder / entry.name / f"{key}.svg"
            charts.bars(heights, (across, up), evidence.styles(found)[entry.name], path, reference)
            yield Figure(f"{title}: {entry.name}", path, f"{caption} Seed {entry.finished[0].seed}.")


def _shown_contrast(contrast: summary.Contrast, entries: Sequence[Shown]) -> dict[str, Any]:
    """What one setting changed, as a table of what can be told and a list of what cannot."""

    def cell(value: Any, digits: int) -> str:
        return comparison.cell(value, digits)

    told = [
        [comparison.heading(each), change.reading, _signed(change, each.digits), cell(change.before, each.digits),
         cell(change.after, each.digits)]
        for change in contrast.told
        for each in [metrics.metric(change.name)]
    ]  # fmt: skip
    header = ["", "is", "by", contrast.before, contrast.after]
    whose = {entry.name: entry for entry in entries}
    return {
        "title": f"{contrast.before} → {contrast.after}",
        "parameters": [
            (key, _value(before, key, whose[contrast.before]), _value(after, key, whose[contrast.after]))
            for key, before, after in contrast.parameters
        ],
        "links": {
            comparison.heading(metrics.metric(change.name)): f"#metric-{_anchor(change.name)}"
            for change in contrast.told
        },
        "table": Table("", "", header, told) if told else None,
        "tied": [metrics.metric(change.name).title for change in contrast.tied],
    }


def _signed(change: summary.Change, digits: int) -> str:
    sign = "+" if change.gap.mean > 0 else ""
    return (sign + comparison.cell(change.gap, digits)).replace("-", "−")


def _value(value: Any, key: str, entry: Shown) -> str:
    """A parameter's value; of `inputs` also the noise that the name stands for."""
    if key != "inputs" or value == CLEAN:
        return "–" if value is None else str(value)
    noise = entry.params.corruption.train[value].noise
    return f"{value} ({', '.join(f'{readable(kind)} {level}' for kind, levels in noise.items() for level in levels)})"


def _anchor(name: str) -> str:
    return name if name in metrics.METRICS else "noise"


def _tables(entries: Sequence[Shown], finished: pd.DataFrame) -> Iterator[Table]:
    """The results; a table that has nothing to show is left out."""
    reference = entries[0].params.corruption.reference
    note = f"Denoising MSE: {reference.kind} at level {reference.level}."
    glance = comparison.tables("At a glance", note, finished, metrics.HEADLINE)
    glance = glance or [Table("At a glance", note, ["", "status"], [])]
    for entry in entries:
        if not entry.finished:
            glance[0].rows.append([entry.name, *(["diverged"] * (len(glance[0].header) - 1))])
    yield from glance
    for pixels in finished.loc[finished["neg_elbo"].notna(), "pixels"].unique():
        of_one_kind = finished[finished["pixels"] == pixels]
        note = "Per image: −ELBO = rate + distortion. No other table's likelihoods are comparable with these."
        yield from comparison.tables(f"Likelihood: {pixels}", note, of_one_kind, metrics.LIKELIHOOD, say_pixels=False)
    for title, note, names in (
        ("Codes", "Over the whole test set.", metrics.CODES),
        ("Representation", "Of the codes of frozen models, for the images' classes.", metrics.REPRESENTATION),
        ("Geometry", "Codes of test images, mixed and turned.", metrics.GEOMETRY),
        ("Samples", _features(), metrics.SAMPLES),
        ("Inputs unlike the data", "What a model gives back of noise and of photographs.", metrics.IDENTITY),
    ):
        yield from comparison.tables(title, note, finished, names)
    for kind, levels in noises(finished).items():
        count = entries[0].params.evaluation.noisy_images
        note = f"MSE to the clean images of what is made of {count:,} corrupted ones; first that of all without noise."
        yield from comparison.tables(f"Denoising: {readable(kind)}", note, finished, [name for _, name in levels])
    yield from comparison.tables("Cost", "Of one seed.", finished, metrics.COST)
    validation = [f"validation_{name}" for name in metrics.HEADLINE]
    note = "The first table on the validation split. By these, settings are picked."
    yield from comparison.tables("Validation", note, finished, validation)


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


def _claims(found: Evidence, finished: pd.DataFrame, drawn: Mapping[str, list[Figure]]) -> Iterator[dict[str, Any]]:
    """Each claim with its numbers and figures."""
    for claim in claims.claims(found):
        mine = finished[finished["entry"].isin([entry.name for entry in claim.answering])]
        yield {
            "claim": claim,
            "tables": comparison.tables(claim.title, "", mine, claim.metrics),
            "figures": drawn.get(claim.key, []),
        }


def _section(entry: Shown, finished: pd.DataFrame) -> Section:
    """An entry: what it is, every seed's numbers, and where they come from."""
    result, training = entry.results[0], entry.results[0].training
    mine = finished[finished["entry"] == entry.name].set_index("seed")
    names = [name for name in metrics.HEADLINE if name in mine and mine[name].notna().any()]
    seeds = [
        [f"seed {seed}", *(f"{mine.loc[seed, name]:,.{metrics.metric(name).digits}f}" for name in names)]
        for seed in mine.index
    ]
    commit = training["commit"]
    return Section(
        entry.name,
        result.about + ("" if entry.finished else " No seed finished."),
        seeds=Table("", "", ["", *(metrics.metric(name).title for name in names)], seeds, names) if seeds else None,
        links={f"seed {each.seed}": _run(each.cost["fingerprint"]) for each in entry.results},
        origin={
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
        parameters=_as_yaml({result.entry: dict(entry.section)}),
    )


def _as_yaml(content: Mapping[str, Any]) -> str:
    text = io.StringIO()
    YAML(pure=True).dump(content, text)
    return text.getvalue()


def _run(fingerprint: str) -> str:
    """The address of a training's run in MLflow."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    server = uri.rstrip("/") if uri.startswith("http") else SERVER
    wanted = quote(f"tags.training = '{fingerprint}'")
    return f"{server}/{RUN.format(wanted)}"


def _undefined(entries: Sequence[Shown]) -> list[tuple[str, list[str]]]:
    """The reasons for every value that is not there, each with what it is the reason for."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        for name, reason in {name: why for r in entry.results for name, why in r.undefined.items()}.items():
            title = metrics.METRICS[name].title if name in metrics.METRICS else name.replace("_", " ")
            reasons.setdefault(reason, {}).setdefault(title, []).append(entry.name)
    return [(reason, list(_by_entries(of))) for reason, of in reasons.items()]


def _by_entries(titles: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Metrics that the same entries lack, together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for title, names in titles.items():
        together.setdefault(tuple(names), []).append(title)
    yield from (f"{', '.join(metrics)} ({', '.join(names)})" for names, metrics in together.items())


def _provenance(params: Params) -> Table:
    """What each stage took."""
    files = {name: paths.PROVENANCE / f"{name}.json" for name in ("download", "noise", "classify")}
    files |= {f"corrupt@{name}": paths.PROVENANCE / "corrupt" / f"{name}.json" for name in params.corruption.train}
    for name in params.variants:
        files[f"train@{name}"] = paths.training(name)
        files[f"evaluate@{name}"] = paths.PROVENANCE / "evaluate" / f"{name}.json"
    took = [[name, f"{disk.read_json(file)['seconds']:,.1f}"] for name, file in files.items()]
    left_out = disk.read_json(files["download"]).get("left_out", {})
    note = "Of each stage's own work, all seeds together."
    if left_out:
        note += f" {len(left_out)} files were left out; {files['download']} lists them with the reasons."
    return Table("Seconds", note, ["", "seconds"], took)
