"""Metrics as `metrics.toml` describes them: title, definition, unit, source, and whether lower or higher is better.

The report, MLflow and the documentation read `metrics.toml`. Training and evaluation import only `metric_names.py`, so
DVC reruns neither after a change of a title.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aelab.evaluation.metric_names import ANOMALIES, RECONSTRUCTION, readable


@dataclass(frozen=True)
class Metric:
    """Description of a metric for the report.

    Attributes:
        digits: digits after the decimal point.
        better: which values are better; None if no value is best.
        likelihood: whether the metric is a likelihood. Likelihoods are comparable only if they model pixels in the same
            way.
    """

    title: str
    definition: str
    digits: int
    better: Literal["lower", "higher"] | None = None
    unit: str = ""
    source: str = ""
    likelihood: bool = False

    @property
    def arrow(self) -> str:
        """Arrow behind the title: ↓ if lower is better, ↑ if higher is better."""
        return {"lower": " ↓", "higher": " ↑", None: ""}[self.better]


TABLE = Path(__file__).with_suffix(".toml")
_FOUND = tomllib.loads(TABLE.read_text(encoding="utf-8"))
_MEASURES, _SCORES = _FOUND.pop("measures"), _FOUND.pop("scores")  # each pair of a measure and a score is a metric
METRICS = {name: Metric(**each) for name, each in _FOUND.items()} | {
    f"{measure}_{score}": Metric(
        f"{each['title']}, {of['title']}", f"{each['definition']}. Score: {of['definition']}",
        each["digits"], "higher", source=each["source"],
    )
    for measure, each in _MEASURES.items()
    for score, of in _SCORES.items()
}  # fmt: skip
LIKELIHOOD = (
    "neg_elbo", "neg_elbo_error", "nll", "nll_error", "effective_samples", "rate", "distortion", "bits_per_dim",
    "neg_elbo_uniform", "rate_uniform",
)  # fmt: skip
CODES = ("active_units", "latent_units", "perplexity", "codes_used", "code_distance")
COST = ("parameters", "train_seconds", "train_cpu_seconds", "images_per_second", "peak_memory_mib")
HEADLINE = (*RECONSTRUCTION, "neg_elbo", "perplexity", "denoising_mse")
OVERVIEW = ("mse", "denoising_mse", "neg_elbo", "frechet", "probe_accuracy", "knn_accuracy")
PLOTTED = ("mse", "denoising_mse", "ssim", "neg_elbo", "frechet", "probe_accuracy", "perplexity", "train_seconds")
DECIDING = ("mse", "denoising_mse", "neg_elbo")  # what `dvc metrics` shows


def metric(name: str) -> Metric:
    """Return the metric `name`; `denoising_<corruption>` is the denoising MSE under this corruption."""
    if name in METRICS:
        return METRICS[name]
    corruption = readable(name.removeprefix("denoising_"))
    definition = f"denoising MSE under {corruption}, on `evaluation.noisy_images` of the test images"
    return Metric(corruption, definition, 5, "lower")


def page() -> str:
    """Return `docs/metrics.md` as Markdown."""
    metrics = [
        (f"`{name}`", each.title + each.arrow, each.unit, each.definition, each.source)
        for name, each in METRICS.items()
        if name not in ANOMALIES
    ]
    measures = [(f"`{name}`", each["title"], each["definition"], each["source"]) for name, each in _MEASURES.items()]
    scores = [(f"`{name}`", each["title"], each["definition"]) for name, each in _SCORES.items()]
    return "\n".join([
        "# Metrics", "",
        "Definitions of all metrics. ↓: lower is better; ↑: higher is better.", "",
        *_table("name", "title", "unit", "definition", "source", rows=metrics), "",
        "## Anomaly detection", "",
        "A name joins a measure and a score: `auroc_mse`. Higher is better. `dataset.anomalies` sets the anomalies.",
        "",
        *_table("measure", "title", "definition", "source", rows=measures), "",
        *_table("score", "title", "definition", rows=scores), "",
        "`python -m aelab.report.metrics` generates this page from `src/aelab/report/metrics.toml`.", "",
    ])  # fmt: skip


def _table(*head: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    shown = [[cell.replace("|", "∣") or "–" for cell in row] for row in rows]
    first, *others = (f"| {' | '.join(row)} |" for row in (head, *shown))
    return [first, "|---" * len(head) + "|", *others]


if __name__ == "__main__":
    print(page(), end="")
