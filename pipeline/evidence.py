"""The results as evidence: what the claims are judged by, and the charts of all entries together."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from autoencoders import charts
from autoencoders.charts import Line, Spent
from autoencoders.claims import gap, noises
from autoencoders.comparison import Figure, flattened
from autoencoders.evidence import CLEAN, Entry, Evidence
from autoencoders.intervals import interval
from autoencoders.metrics import readable
from pipeline.params import Params
from pipeline.results import Result

SETTLED = 0.2  # of a training, from which on its losses are compared: before, they fall too fast


def gather(params: Params, collected: Sequence[Result], finished: pd.DataFrame) -> Evidence:
    """What is known of every entry, and the metrics of its seeds that finished."""
    return Evidence([_entry(params, name, collected) for name in params.variants], finished)


def _entry(params: Params, name: str, collected: Sequence[Result]) -> Entry:
    mine = [result for result in collected if result.entry == name and result.status == "finished"]
    section: Mapping[str, Any] = params.variants[name]
    return Entry(
        name,
        pixels=next((result.pixels for result in mine), None),
        parameters=dict(flattened(section)),
        noise=() if section["inputs"] == CLEAN else tuple(params.corruption.train[section["inputs"]].noise),
        curves=[result.curve for result in mine],
    )


def rate_distortion(evidence: Evidence, folder: Path) -> Iterator[Figure]:
    """One figure for each kind of pixels."""
    answering = [entry for entry in evidence.having("rate", "distortion") if entry.pixels]
    for i, pixels in enumerate(dict.fromkeys(entry.pixels for entry in answering)):
        path = folder / f"rate_distortion{i or ''}.png"
        mine = [entry for entry in answering if entry.pixels == pixels]
        charts.rate_distortion([_spent(evidence, entry, mine) for entry in mine], path)
        yield Figure(
            f"Rate and distortion: {pixels}",
            path,
            "Small dots are seeds, large ones their means. Gray lines join equal sums of both, the −ELBO that they are "
            "marked with: further down and to the left is better. Dark lines join one model at several β; an arrow "
            "leads from the uniform prior to the learned one.",
        )


def _spent(evidence: Evidence, entry: Entry, others: Sequence[Entry]) -> Spent:
    seeds = pd.DataFrame({name: evidence.values(entry, name) for name in ("rate", "distortion", "rate_uniform")})
    rate, distortion, uniform = (seeds[name].to_numpy(float) for name in seeds)
    # With a codebook β weighs no rate.
    family = None if seeds["rate_uniform"].notna().any() or "beta" not in entry.parameters else _but_beta(entry)
    alone = sum(_but_beta(other) == family for other in others) < 2  # noqa: PLR2004 - a line has two ends
    return Spent(
        entry.name,
        styles(evidence)[entry.name],
        rate,
        distortion,
        uniform if seeds["rate_uniform"].notna().all() else None,
        None if alone else family,
        float(entry.parameters.get("beta", 1.0)),
    )


def _but_beta(entry: Entry) -> str:
    """All parameters but β, as text."""
    return repr(sorted((key, repr(value)) for key, value in entry.parameters.items() if key != "beta"))


def claimed(evidence: Evidence, folder: Path) -> dict[str, list[Figure]]:
    """The figures of the claims, by the claim's key."""
    panels = {
        readable(kind): {
            entry.name: [(level, evidence.mean(entry, name)) for level, name in names]
            for entry in evidence.having(*(name for _, name in names))
        }
        for kind, names in noises(evidence.results).items()
    }
    found = dict[str, list[Figure]]()
    if panels:
        path = folder / "denoising_curves.png"
        charts.errors(panels, styles(evidence), "MSE to the clean image", path)
        caption = "By the level of each kind of noise, with 95 % intervals over the seeds; level 0 is reconstruction."
        found["denoising"] = [Figure("Error of what each entry makes of a corrupted image", path, caption)]
    lines = {entry.name: line for entry in evidence.entries if (line := _gaps(entry))}
    if lines:
        path = folder / "generalisation_curves.png"
        charts.ratios(lines, styles(evidence), "share of the training", "validation ÷ training loss", path)
        caption = (
            "Each validation loss over the mean of the training losses since the one before, with 95 % intervals over "
            "the seeds. Training losses are older than the validation, so that the ratio begins below 1; above 1, the "
            "entry does better on what it has seen."
        )
        found["memory"] = [Figure("Validation against training loss", path, caption)]
    return found


def _gaps(entry: Entry) -> Line:
    """Validation ÷ training loss by the share of the training that is done."""
    curves = [dict(gap(curve)) for curve in entry.curves]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return [
        (step / steps[-1], interval(curve[step] for curve in curves)) for step in steps if step > SETTLED * steps[-1]
    ]


def styles(evidence: Evidence) -> dict[str, int]:
    """The same look for an entry in all charts."""
    return {entry.name: i for i, entry in enumerate(evidence.entries)}
