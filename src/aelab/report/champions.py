"""Which trained model is the best for what: the rule by which MLflow's alias `champion` is given.

The entry with the best mean over its seeds on the validation split, and of it the seed that is best there. The test
split has no say: whoever uses a champion may still trust its test figures.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean

from aelab.report.metrics import METRICS

ALIAS = "champion"
TASKS = {"reconstruction": "mse", "denoising": "denoising_mse", "generation": "neg_elbo"}  # the metric, least is best


@dataclass(frozen=True)
class Candidate:
    """One trained seed of one entry."""

    entry: str
    metrics: dict[str, float]  # of the validation split; empty if it diverged
    pixels: str | None  # what a pixel is to its likelihood
    fingerprint: str  # of its result


@dataclass(frozen=True)
class Champion:
    """The best of the candidates for a task."""

    task: str
    value: float  # of the task's metric, its own
    mean: float  # and that of its entry
    candidate: Candidate


def elect(candidates: Iterable[Candidate]) -> list[Champion]:
    """The champion of each task of `TASKS` that any entry stands for. Of equals the first one is taken.

    An entry stands for a task if all of its seeds have the task's metric: where one diverged, the mean of the others
    would flatter it. Likelihoods of different kinds of pixels cannot be compared, so entries stand for a task that is
    measured by one only if their kind is that of the first that does.
    """
    seeds = dict[str, list[Candidate]]()
    for candidate in candidates:
        seeds.setdefault(candidate.entry, []).append(candidate)
    champions = []
    for task, metric in TASKS.items():
        standing = [of for of in seeds.values() if all(metric in each.metrics for each in of)]
        if METRICS[metric].likelihood:
            standing = [of for of in standing if of[0].pixels == standing[0][0].pixels]
        if standing:
            mean, entry = min(((fmean(each.metrics[metric] for each in of), of) for of in standing), key=itemgetter(0))
            best = min(entry, key=lambda each: each.metrics[metric])
            champions.append(Champion(task, best.metrics[metric], mean, best))
    return champions


def rule(task: str) -> str:
    """How the champion of a task is found, in Markdown: the description of what MLflow has registered."""
    metric = METRICS[TASKS[task]]
    kind = " Only entries with the first one's kind of pixels are compared." if metric.likelihood else ""
    return (
        f"`models:/{task}@{ALIAS}` is of the entry of `params.yaml` with the least {metric.title} on the "
        "**validation** split, mean over its seeds, and is the seed with the least. An entry of which a seed diverged "
        f"is left out.{kind} DVC experiments change nothing here.\n\n{metric.title}: {metric.definition}."
    )
