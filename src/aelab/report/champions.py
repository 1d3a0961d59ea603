"""Election of the models that get the alias `champion` in MLflow's registry.

An entry is a model configuration in `params.yaml`, trained with several seeds. For each data set and task, the entry
with the lowest mean of the task's metric over its seeds wins. Of the winner's models, the model with the lowest value
becomes the champion. All values are from the validation split, so the champion's test results stay unbiased.
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
# Environment variable with the pattern for names of registered models. A pattern has {task} and may have {dataset}.
NAME = "AELAB_REGISTERED_MODEL"
# The metric that decides each task. Lower is better for all three.
TASKS = {"reconstruction": "mse", "denoising": "denoising_mse", "generation": "neg_elbo"}


@dataclass(frozen=True)
class Candidate:
    """Trained model of one seed of one entry.

    Attributes:
        entry: name of the entry.
        metrics: metrics on the validation split; empty if the training diverged.
        pixels: how the likelihood models a pixel, such as "Bernoulli, not binarised"; None without a likelihood.
        fingerprint: hash of the code, data, parameters and results of the training.
        dataset: name of the data set.
        symptoms: faults of the trained model, such as a collapsed codebook.
    """

    entry: str
    metrics: dict[str, float]
    pixels: str | None
    fingerprint: str
    dataset: str
    symptoms: Sequence[str] = ()


@dataclass(frozen=True)
class Champion:
    """Best candidate for a task.

    Attributes:
        task: a key of `TASKS`.
        value: the task's metric for this candidate.
        mean: mean of the task's metric over the seeds of the candidate's entry.
        candidate: the trained model.
    """

    task: str
    value: float
    mean: float
    candidate: Candidate

    @property
    def name(self) -> str:
        """Name of the model in MLflow's registry, from the pattern in `$AELAB_REGISTERED_MODEL`.

        Raises:
            UserError: the pattern has no `{task}`, or produces a name that MLflow refuses.
        """
        pattern = os.environ.get(NAME) or "{dataset}-{task}"
        dataset = re.sub(r"[^A-Za-z0-9_-]+", "-", self.candidate.dataset)
        name = pattern.replace("{dataset}", dataset).replace("{task}", self.task)
        if "{task}" not in pattern or not re.fullmatch(r"[\w. -]+", name):
            msg = (
                f'{NAME} is "{pattern}". The pattern needs {{task}} and may have {{dataset}}, letters, digits, spaces, '
                '".", "-" and "_". Example: team-{dataset}-{task}'
            )
            raise UserError(msg)
        return name


def elect(candidates: Iterable[Candidate]) -> list[Champion]:
    """Return the champion of each data set and task that has an eligible entry. Of equal means, the first wins.

    An entry is eligible if all of its seeds have the task's metric. An entry with a diverged seed is not eligible,
    because the mean over the other seeds would flatter the entry. Entries with symptoms are eligible only if every
    entry has symptoms.

    Likelihoods are comparable only if they model pixels in the same way (`Candidate.pixels`). For a task whose metric
    is a likelihood, only entries with the same `pixels` as the first eligible entry compete.
    """
    seeds = dict[str, dict[str, list[Candidate]]]()  # candidates by data set and entry
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
    """Return the description of the registered model, in Markdown: how the champion is elected."""
    metric = METRICS[TASKS[champion.task]]
    kind = " Only entries with the first entry's kind of pixels compete." if metric.likelihood else ""
    return (
        f"`models:/{champion.name}@{ALIAS}` is the best model for {champion.task}. On the **validation** split of "
        f"{champion.candidate.dataset}, the entry of `params.yaml` with the lowest mean {metric.title} over its seeds "
        f"wins, and its seed with the lowest {metric.title} is the champion. "
        f"Entries with a diverged seed do not compete; collapsed models compete only if all models collapsed.{kind} "
        f"DVC experiments do not compete.\n\n"
        f"{metric.title}: {metric.definition}."
    )
