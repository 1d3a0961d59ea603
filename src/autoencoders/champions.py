"""Which trained model is the best for what: the rule by which MLflow's alias `champion` is given.

The entry with the best mean over its seeds on the validation split, and of it the seed that is best there. The test
split has no say: whoever uses a champion may still trust its test figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Generic, TypeVar

from autoencoders.metrics import METRICS

T = TypeVar("T")

ALIAS = "champion"
TASKS = {"reconstruction": "mse", "denoising": "denoising_mse", "generation": "neg_elbo"}  # the metric, least is best


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """One trained seed of one entry."""

    entry: str
    metrics: dict[str, float]  # of the validation split; empty if it diverged
    pixels: str | None  # what a pixel is to its likelihood
    what: T  # anything that the caller knows it by


@dataclass(frozen=True)
class Champion(Generic[T]):
    """The best of the candidates for a task."""

    task: str
    value: float  # of the task's metric, its own
    mean: float  # and that of its entry
    candidate: Candidate[T]


def elect(candidates: Sequence[Candidate[T]]) -> list[Champion[T]]:
    """The champion of each task of `TASKS` that any entry stands for. Of equals the first one is taken.

    An entry stands for a task if all of its seeds have the task's metric: where one diverged, the mean of the others
    would flatter it. Likelihoods of different kinds of pixels cannot be compared, so entries stand for a task that is
    measured by one only if their kind is that of the first that does.
    """
    champions = []
    for task, metric in TASKS.items():
        entries = dict.fromkeys(each.entry for each in candidates)
        seeds = {entry: [each for each in candidates if each.entry == entry] for entry in entries}
        standing = {entry: of for entry, of in seeds.items() if all(metric in each.metrics for each in of)}
        if METRICS[metric].likelihood:
            kinds = [each.pixels for of in standing.values() for each in of]
            standing = {entry: of for entry, of in standing.items() if of[0].pixels == kinds[0]}
        if standing:
            means = {entry: fmean(each.metrics[metric] for each in of) for entry, of in standing.items()}
            entry = min(means, key=means.__getitem__)
            best = min(standing[entry], key=lambda each: each.metrics[metric])
            champions.append(Champion(task, best.metrics[metric], means[entry], best))
    return champions


def rule(task: str) -> str:
    """How the champion of a task is found, in Markdown: the description of what MLflow has registered."""
    metric = METRICS[TASKS[task]]
    kind = (
        " Only entries whose pixels are of one kind are compared, that of the first one." if metric.likelihood else ""
    )
    return (
        f"`models:/{task}@{ALIAS}` is the model for {task}: of the entries of `params.yaml` the one with the least "
        f"{metric.title} on the **validation** split, mean over its seeds, and of these the seed with the least. An "
        f"entry of which a seed diverged is left out.{kind} It is found anew whenever the results of the workspace are "
        "written to MLflow; DVC experiments leave it alone.\n\n"
        f"{metric.title}: {metric.definition}."
    )
