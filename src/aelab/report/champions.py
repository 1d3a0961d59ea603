"""Which trained model is the best for what: the rule by which MLflow's alias `champion` is given, and to which model.

Of each data set the entry with the best mean over its seeds on the validation split, and of it the seed that is best
there. The test split has no say: whoever uses a champion may still trust its test figures.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from operator import itemgetter
from statistics import fmean

from aelab.core.errors import UserError
from aelab.report.metrics import METRICS

ALIAS = "champion"
NAME = "AELAB_REGISTERED_MODEL"  # of the registered models: a text with {task} and maybe {dataset}
TASKS = {"reconstruction": "mse", "denoising": "denoising_mse", "generation": "neg_elbo"}  # the metric, least is best


@dataclass(frozen=True)
class Candidate:
    """One trained seed of one entry."""

    entry: str
    metrics: dict[str, float]  # of the validation split; empty if it diverged
    pixels: str | None  # what a pixel is to its likelihood
    fingerprint: str  # of its result
    dataset: str  # its name
    symptoms: Sequence[str] = ()  # what is wrong with a model that finished, such as a codebook that has collapsed


@dataclass(frozen=True)
class Champion:
    """The best of the candidates for a task."""

    task: str
    value: float  # of the task's metric, its own
    mean: float  # and that of its entry
    candidate: Candidate

    @property
    def name(self) -> str:
        """What MLflow's registry calls the model, by $AELAB_REGISTERED_MODEL.

        Raises:
            UserError: the variable makes no name for a model.
        """
        pattern = os.environ.get(NAME) or "{dataset}-{task}"
        dataset = re.sub(r"[^A-Za-z0-9_-]+", "-", self.candidate.dataset)
        name = pattern.replace("{dataset}", dataset).replace("{task}", self.task)
        if "{task}" not in pattern or not re.fullmatch(r"[\w. -]+", name):
            msg = (
                f'{NAME} is "{pattern}": name the models with {{task}}, maybe {{dataset}}, letters, digits, spaces, '
                '".", "-" and "_", such as team-{dataset}-{task}'
            )
            raise UserError(msg)
        return name


def elect(candidates: Iterable[Candidate]) -> list[Champion]:
    """The champion of each data set and task of `TASKS` that any entry stands for. Of equals the first one is taken.

    An entry stands for a task if all of its seeds have the task's metric: where one diverged, the mean of the others
    would flatter it. Likelihoods of different kinds of pixels cannot be compared, so entries stand for a task that is
    measured by one only if their kind is that of the first that does. Entries with symptoms stand back, unless all
    have some.
    """
    seeds = dict[str, dict[str, list[Candidate]]]()  # by data set and entry
    for each in candidates:
        seeds.setdefault(each.dataset, {}).setdefault(each.entry, []).append(each)
    champions = []
    for entries, (task, metric) in product(seeds.values(), TASKS.items()):
        standing = [of for of in entries.values() if all(metric in each.metrics for each in of)]
        if METRICS[metric].likelihood:
            standing = [of for of in standing if of[0].pixels == standing[0][0].pixels]
        standing = [of for of in standing if not any(each.symptoms for each in of)] or standing
        if standing:
            mean, entry = min(((fmean(each.metrics[metric] for each in of), of) for of in standing), key=itemgetter(0))
            best = min(entry, key=lambda each: each.metrics[metric])
            champions.append(Champion(task, best.metrics[metric], mean, best))
    return champions


def rule(champion: Champion) -> str:
    """How a champion is found, in Markdown: the description of what MLflow has registered."""
    metric = METRICS[TASKS[champion.task]]
    kind = " Only entries with the first one's kind of pixels are compared." if metric.likelihood else ""
    return (
        f"`models:/{champion.name}@{ALIAS}` is of the entry of `params.yaml` with the least {metric.title} on the "
        f"**validation** split of {champion.candidate.dataset}, mean over its seeds, and is the seed with the least. "
        f"An entry of which a seed diverged, or that has collapsed, is left out.{kind} "
        f"DVC experiments change nothing here.\n\n"
        f"{metric.title}: {metric.definition}."
    )
