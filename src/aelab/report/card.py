"""A model card: what a trained entry is, what it learned from and how, and what it is worth, as Markdown.

The front matter is what Hugging Face reads of a model's page: licence, tags, data sets, metrics, and `model-index` with
the figures. A metric that an entry does not define is "n/a" with the reason in the text, and is not in the index.
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

LICENCE = "mit"  # the project's, as Hugging Face calls it
SHOWN = (
    *RECONSTRUCTION, "denoising_mse", *PROBABILISTIC, "perplexity", "codes_used", *SAMPLES, *REPRESENTATION,
    *CLASSIFIED,
)  # fmt: skip


@dataclass(frozen=True)
class Card:
    """What there is to say of an entry beside its numbers."""

    name: str  # of the model
    about: str  # in a sentence
    dataset: str
    data: Sequence[str]  # sentences about what it learned from and was measured on
    procedure: Sequence[str]  # how it was trained
    limits: Sequence[str]
    undefined: Mapping[str, str]  # metric → why there is none
    parameters: str  # its section of params.yaml, as YAML
    uses: Sequence[str]  # commands
    commit: str


def markdown(card: Card, entry: Entry, evidence: Evidence) -> str:
    """The card of `entry`; `evidence` has its results and those of the floors that it is set beside."""
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
    """The YAML at the top of the card."""
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
    """A metric's mean with its interval, beside what is reached without any training."""
    having, digits = evidence.having(name), METRICS[name].digits
    texts = [cell(evidence.mean(of, name), digits) if of in having else "n/a" for of in (entry, *floors)]
    return [_heading(name, entry).replace("|", "\\|"), *texts]


def _heading(name: str, entry: Entry) -> str:
    each = METRICS[name]
    return heading(each, entry.pixels if each.likelihood else None)
