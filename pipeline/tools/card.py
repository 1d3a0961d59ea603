"""card: print the model card of an entry, which is a model with its settings in params.yaml.

    python -m pipeline.tools.card vae    # the same as `aelab card --model vae`

The card summarises the results on disk: evaluation, parameters, learning curves and provenance. No stage of `dvc.yaml`
runs this command.
"""

import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import typer
from ruamel.yaml import YAML

from aelab.core.errors import UserError
from aelab.report import card, marks
from aelab.report.card import Card
from aelab.report.evidence import Evidence
from aelab.report.tables import listed
from pipeline.common import params, paths
from pipeline.common.params import CLEAN, Params
from pipeline.reporting import results
from pipeline.reporting.results import ReportEntry


def main(entry: str) -> None:
    """Print the model card of ENTRY, an entry of params.yaml or its folder in models/."""
    try:
        sys.stdout.write(text(params.load(variants=False), Path(entry).name))
    except UserError as error:
        sys.exit(f"aelab: {error}")


def text(checked: Params, name: str) -> str:
    """Return the model card of the entry `name` as Markdown.

    Raises:
        UserError: the entry does not exist or has no result.
    """
    if name not in checked.variants:
        msg = f"there is no entry {name} in params.yaml; there are {listed(checked.variants)}"
        raise UserError(msg)
    found, lacking = results.available(checked)
    of = {key: [result for result in found if result.entry == key] for key in checked.variants}
    if not of[name]:
        raise UserError(next((sentence for sentence in lacking if f" {name}," in sentence), lacking[0]))
    shown = [ReportEntry(key, checked, each) for key, each in of.items() if each and (key == name or each[0].floor)]
    rows = results.rows(shown)
    evidence = Evidence([each.entry() for each in shown], rows[rows["status"] == "finished"])
    mine = next(each for each in shown if each.name == name)
    entry = next(each for each in evidence.entries if each.name == name)
    return card.markdown(_card(mine, marks.marks(entry), entry.looks), entry, evidence)


def _card(mine: ReportEntry, symptoms: list[str], looks: float) -> Card:
    result, dataset = mine.results[0], mine.params.dataset.name
    section = io.StringIO()
    YAML(pure=True).dump({result.entry: dict(mine.section)}, section)
    return Card(
        name=f"{dataset}-{mine.name}",
        about=result.about,
        dataset=dataset,
        data=list(_data(mine)),
        procedure=list(_procedure(mine, looks)),
        limits=list(_limits(mine, symptoms)),
        undefined={name: why for each in mine.results for name, why in each.undefined.items()},
        parameters=section.getvalue(),
        uses=list(_uses(mine)),
        commit=result.training["commit"],
    )


def _data(mine: ReportEntry) -> Iterator[str]:
    """Yield the card's lines about the training and test data."""
    result, inputs = mine.results[0], mine.section["inputs"]
    count = f"{result.training_images:,} images" if result.training_images else "the images"
    yield f"{count} of {mine.params.dataset.name}, {'×'.join(map(str, mine.params.dataset.image))}, from 0 to 1"
    if inputs != CLEAN:
        yield f"trained under the corruption `{inputs}`: {', '.join(mine.params.learned(inputs).noise)}"
    for split, digest in result.digests.items():
        yield f"{split} split: DVC's digest {digest}"


def _procedure(mine: ReportEntry, looks: float) -> Iterator[str]:
    """Yield the card's lines about the training: steps, seeds, losses, machine and code."""
    result = mine.results[0]
    if mine.floor:
        yield "no training steps: the model is a floor (a baseline)"
    else:
        seeds = listed(each.seed for each in mine.results)
        yield f"seeds: {seeds}; the weights with the lowest validation loss are kept"
    for phase in dict.fromkeys(point["phase"] for point in result.curve):
        steps = max(point["step"] for point in result.curve if point["phase"] == phase)
        losses = [_losses(each.curve, phase) for each in mine.finished]
        fell = [each for each in losses if each]
        said = f"{phase}: {steps:,} steps"
        if fell:
            said += f", validation loss {fmean(x[0] for x in fell):.5g} → {fmean(min(x) for x in fell):.5g}"
        yield said
    if not math.isnan(looks):
        yield f"each training image was seen {looks:.1f} times"
    if cost := results.costs(result):
        yield f"{cost['train_seconds']:.0f} s for one seed on {result.training['hardware']}"
    yield f"code: commit {result.training['commit']}, torch {result.training['packages']['torch']}"


def _losses(curve: list[dict[str, float]], phase: object) -> list[float]:
    return [point["validation_loss"] for point in curve if point["phase"] == phase and "validation_loss" in point]


def _limits(mine: ReportEntry, symptoms: list[str]) -> Iterator[str]:
    """Yield the card's lines about the known limits of the model."""
    yield f"trained only on images like {mine.params.dataset.name}, whose owners set the terms of use"
    if mine.section["inputs"] == CLEAN:
        yield "trained without noise, so no denoiser"
    yield from symptoms
    stopped = [each for each in mine.results if each.status != "finished"]
    yield from (f"seed {each.seed}: {each.status}; no number includes it" for each in stopped)
    if len(mine.finished) == 1 and not mine.floor:
        yield "only one seed: the spread over seeds is unknown"


def _uses(mine: ReportEntry) -> Iterator[str]:
    """Yield the card's example commands, which use the model."""
    at = f"--model {paths.MODELS / mine.name}"
    yield f"aelab reconstruct in.png out.png {at}"
    if mine.section["inputs"] != CLEAN:
        yield f"aelab denoise noisy.png clean.png {at}"
    yield f"aelab encode images/ codes.parquet {at}"
    if mine.finished and "samples" not in mine.finished[0].undefined:
        yield f"aelab sample samples.png --count 25 {at}"


if __name__ == "__main__":
    typer.run(main)
