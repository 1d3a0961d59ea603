"""Plans a run: which stages of `dvc.yaml` may have to run, and which of these stages to start first.

An entry is a model with its settings in params.yaml. A stage such as `train@entry` belongs to one entry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Self

from dvc.exceptions import DvcException

from pipeline.common.params import Params
from pipeline.runner.dvc_stages import DvcStages

# The unit of work is one training step of an entry's autoencoder, for all random seeds of the entry.
EVALUATION = 0.125  # work of an entry's evaluation, as a fraction of the work of its training
PRIOR = 2.5  # work of one training step of a learned prior
CLASSIFIER = 0.1  # work of one training step of the classifier


@dataclass
class Plan:
    """The stages that may have to run, and the stages that can run now."""

    upstream: Mapping[str, set[str]]  # stage → the stages that it depends on
    remaining_work: Mapping[str, float]  # stage → work until the end of the longest chain of dependent stages
    waiting: set[str]  # planned stages that have not started
    unfinished: set[str]  # planned stages that have not succeeded

    @classmethod
    def of(
        cls, upstream: Mapping[str, set[str]], is_changed: Callable[[str], bool], work: Callable[[str], float]
    ) -> Self:
        """Plan each changed stage, and each stage that depends on a changed stage, directly or indirectly."""
        order = list(TopologicalSorter(upstream).static_order())
        waiting = set[str]()
        for name in order:
            if upstream[name] & waiting or is_changed(name):
                waiting.add(name)
        remaining = {name: work(name) for name in order}
        for name in reversed(order):
            for on in upstream[name]:
                remaining[on] = max(remaining[on], work(on) + remaining[name])
        return cls(upstream, remaining, waiting, set(waiting))

    def ready(self) -> list[str]:
        """Return the stages that can start now. The stage with the most `remaining_work` comes first."""
        free = [name for name in self.waiting if not self.upstream[name] & self.unfinished]
        return sorted(free, key=lambda name: (-self.remaining_work[name], name))


def plan_run(dvc: DvcStages, params: Params, *, elsewhere: bool) -> Plan:
    """Return the plan of the stages that are out of date according to DVC.

    Args:
        dvc: the stages of `dvc.yaml`.
        params: the parameters, from which the work of each stage is estimated.
        elsewhere: whether stages run on other machines. If so, an output that is missing here counts as unchanged.
    """

    def is_changed(name: str) -> bool:
        stage = dvc.stages[name]
        try:
            if not elsewhere:
                return bool(stage.changed())
            # With allow_missing, DVC reports a stage as unchanged even if the stage has never run.
            new = not all(each.hash_info for each in (*stage.deps, *stage.outs))
            return new or bool(
                stage.changed(allow_missing=True, upstream=[dvc.stages[on] for on in dvc.upstream[name]])
            )
        except DvcException:  # the stage will report the problem when it runs
            return True

    with dvc.turn():
        return Plan.of(dvc.upstream, is_changed, lambda name: estimate_work(name, params))


def estimate_work(name: str, params: Params) -> float:
    """Estimate the work of a stage, in training steps of an autoencoder."""
    kind, _, entry = name.partition("@")
    if kind == "classify":
        return params.evaluation.classifier.steps * CLASSIFIER
    steps = _steps(params.variants.get(entry)) or params.training.steps
    return steps if kind == "train" else steps * EVALUATION


def _steps(section: Any, cost: float = 1.0) -> float:
    """Sum the training steps in an entry's section of params.yaml. The section is not checked yet.

    Each step of a part with its own training, such as a learned prior, counts as `PRIOR` steps.
    """
    if not isinstance(section, dict):
        return 0.0
    return sum(
        cost * each if key == "steps" and isinstance(each, int) else _steps(each, cost if key == "training" else PRIOR)
        for key, each in section.items()
    )
