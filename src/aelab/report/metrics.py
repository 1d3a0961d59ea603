"""Every metric as `metrics.toml` describes it: title, unit, which way is better, what it measures, where it is defined.

The report, MLflow and the documentation read it from here; whoever trains or evaluates imports `metric_names.py` alone.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aelab.evaluation.metric_names import RECONSTRUCTION, readable


@dataclass(frozen=True)
class Metric:
    """One metric."""

    title: str
    definition: str
    digits: int  # after the decimal point, where it is shown
    better: Literal["lower", "higher"] | None = None  # None: no value of it is best
    unit: str = ""
    source: str = ""
    likelihood: bool = False  # comparable only between entries with the same kind of pixels

    @property
    def arrow(self) -> str:
        """Which way is better, as a sign behind the title."""
        return {"lower": " ↓", "higher": " ↑", None: ""}[self.better]


TABLE = Path(__file__).with_suffix(".toml")
_FOUND = tomllib.loads(TABLE.read_text(encoding="utf-8"))
_MEASURES, _SCORES = _FOUND.pop("measures"), _FOUND.pop("scores")  # each measure is taken of each score
METRICS = {name: Metric(**each) for name, each in _FOUND.items()} | {
    f"{measure}_{score}": Metric(
        f"{each['title']}, {of['title']}", f"{each['definition']}; their score: {of['definition']}",
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
OVERVIEW = ("mse", "denoising_mse", "neg_elbo", "frechet", "probe_accuracy", "knn_accuracy")  # a question each
PLOTTED = ("mse", "denoising_mse", "ssim", "neg_elbo", "frechet", "probe_accuracy", "perplexity", "train_seconds")
DECIDING = ("mse", "denoising_mse", "neg_elbo")  # what `dvc metrics` shows


def metric(name: str) -> Metric:
    """The metric `name`; "denoising_<corruption>" is the denoising error under that corruption."""
    if name in METRICS:
        return METRICS[name]
    corruption = readable(name.removeprefix("denoising_"))
    definition = f"denoising MSE under {corruption}, on `evaluation.noisy_images` of the test images"
    return Metric(corruption, definition, 5, "lower")


def page() -> str:
    """The page of the documentation about metrics, as Markdown."""
    rows = [
        f"| `{name}` | {each.title}{each.arrow} | {each.unit or '–'} | {each.definition.replace('|', '∣')} "
        f"| {each.source or '–'} |"
        for name, each in METRICS.items()
    ]
    head = ["| name | shown as | unit | what it is | source |", "|---|---|---|---|---|"]
    return "\n".join([
        "# Metrics", "",
        "Made by `python -m aelab.report.metrics` from `src/aelab/report/metrics.toml`, which the report",
        "and MLflow read too. An arrow says which way is better; without one no value is best.", "", *head, *rows, "",
    ])  # fmt: skip


if __name__ == "__main__":
    print(page(), end="")
