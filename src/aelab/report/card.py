"""Model card, as Markdown: a page about a trained model, its data, its training and its test results.

The model is one entry of `params.yaml`, a model configuration. Hugging Face reads the front matter: licence, tags, data
sets, metrics, and the results in `model-index`. If a metric is undefined for the entry, the table says "n/a", the text
states the reason, and `model-index` lacks the metric.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from aelab.evaluation.metric_names import CLASSIFIED, PROBABILISTIC, RECONSTRUCTION, REPRESENTATION, SAMPLES
from aelab.report import pages
from aelab.report.evidence import Entry, Evidence
from aelab.report.metrics import METRICS
from aelab.report.pages import CAPTIONS
from aelab.report.tables import cell, heading

LICENCE = "mit"  # Hugging Face's name for the MIT licence
SHOWN = (
    *RECONSTRUCTION, "denoising_mse", *PROBABILISTIC, "perplexity", "codes_used", *SAMPLES, *REPRESENTATION,
    *CLASSIFIED,
)  # fmt: skip


@dataclass(frozen=True)
class Card:
    """Text of a model card.

    Attributes:
        name: name of the entry.
        about: one sentence about the model.
        dataset: name of the data set, as `params.yaml` spells it.
        data: sentences about the training and test images.
        procedure: sentences about the training.
        limits: sentences about the model's limits.
        undefined: the reason for each undefined metric, by the metric's name.
        parameters: the entry's section of `params.yaml`, as YAML.
        uses: shell commands that use the model.
        commit: commit of the code that trained the model.
    """

    name: str
    about: str
    dataset: str
    data: Sequence[str]
    procedure: Sequence[str]
    limits: Sequence[str]
    undefined: Mapping[str, str]
    parameters: str
    uses: Sequence[str]
    commit: str


def markdown(card: Card, entry: Entry, evidence: Evidence) -> str:
    """Return the model card of `entry` as Markdown, with the results of the floors: baselines without training.

    Args:
        card: the text of the card.
        entry: the entry, with its trained model.
        evidence: the results of the entry and of the floors.
    """
    floors = [each for each in evidence.entries if each.floor and each is not entry]
    rows = [_row(name, entry, floors, evidence) for name in SHOWN]
    context = {
        "card": card,
        "front": front_matter(card, entry, evidence),
        "dataset": CAPTIONS["datasets"].get(card.dataset, card.dataset),
        "header": ["metric", card.name, *(floor.name for floor in floors)],
        "rows": rows,
        "reasons": {METRICS[name].title: card.undefined[name] for name in SHOWN if name in card.undefined},
        "over": next((each.over for name in SHOWN if (each := evidence.mean(entry, name)).known and each.half), ""),
    }
    return pages.render("card.md.j2", context)


def front_matter(card: Card, entry: Entry, evidence: Evidence) -> str:
    """Return the front matter of the card as YAML."""
    means = {name: evidence.mean(entry, name).mean for name in SHOWN if entry in evidence.having(name)}
    measured = [
        {
            "type": name,
            "name": heading(METRICS[name], entry.pixels if METRICS[name].likelihood else None),
            "value": mean,
        }
        for name, mean in means.items()
        if math.isfinite(mean)
    ]
    dataset = {"type": card.dataset, "name": CAPTIONS["datasets"].get(card.dataset, card.dataset), "split": "test"}
    result = {"task": {"type": "autoencoding", "name": "Autoencoding"}, "dataset": dataset, "metrics": measured}
    content: dict[str, Any] = {
        "license": LICENCE,
        "library_name": "aelab",
        "tags": ["autoencoder", "pytorch", str(entry.parameters.get("model", ""))],
        "datasets": [card.dataset],
        "metrics": [each["type"] for each in measured],
        "model-index": [{"name": card.name, "results": [result] if measured else []}],
    }
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False  # type: ignore[assignment]
    yaml.dump(content, text)
    return text.getvalue()


def _row(name: str, entry: Entry, floors: Sequence[Entry], evidence: Evidence) -> list[str]:
    """Return a row of the table: the metric's heading, and the means of the entry and of each floor."""
    having, digits = evidence.having(name), METRICS[name].digits
    texts = [cell(evidence.mean(of, name), digits) if of in having else "n/a" for of in (entry, *floors)]
    return [_heading(name, entry).replace("|", "\\|"), *texts]


def _heading(name: str, entry: Entry) -> str:
    each = METRICS[name]
    return heading(each, entry.pixels if each.likelihood else None)
