"""The plan of a run: which stages may have to run, which can run now, and in which order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Self

from dvc.exceptions import DvcException

from pipeline.common.params import Params
from pipeline.runner.dvc_stages import DvcStages

EVALUATION = 0.125  # work of an evaluation, relative to its training
PRIOR = 2.5  # work of a learned prior's step, relative to an autoencoder's step
CLASSIFIER = 0.1  # work of a classifier's step, relative to a training step of all seeds of an entry


@dataclass
class Plan:
    """The stages that may have to run, and the stages that can run now."""

    upstream: Mapping[str, set[str]]  # stage → the stages that it depends on
    remaining_work: Mapping[str, float]  # work of a stage plus the work on the longest path from the stage to the end
    waiting: set[str]  # stages that have not started
    unfinished: set[str]

    @classmethod
    def of(
        cls, upstream: Mapping[str, set[str]], is_changed: Callable[[str], bool], work: Callable[[str], float]
    ) -> Self:
        """Plan every changed stage and all stages that depend on a changed stage."""
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
        """Return the stages that can start, those with the longest path to the end first."""
        free = [name for name in self.waiting if not self.upstream[name] & self.unfinished]
        return sorted(free, key=lambda name: (-self.remaining_work[name], name))


def plan_run(dvc: DvcStages, params: Params, *, elsewhere: bool) -> Plan:
    """Plan the stages that DVC finds changed.

    Args:
        dvc: the stages.
        params: the parameters, from which the work of each stage is estimated.
        elsewhere: whether stages run on other machines. If so, outputs that this machine lacks are taken as unchanged.
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
        except DvcException:  # the stage will report the problem
            return True

    with dvc.turn():
        return Plan.of(dvc.upstream, is_changed, lambda name: estimate_work(name, params))


def estimate_work(name: str, params: Params) -> float:
    """Estimate the work of a stage, in training steps."""
    kind, _, entry = name.partition("@")
    if kind == "classify":
        return params.evaluation.classifier.steps * CLASSIFIER
    steps = _steps(params.variants.get(entry)) or params.training.steps
    return steps if kind == "train" else steps * EVALUATION


def _steps(section: Any, cost: float = 1.0) -> float:
    """Sum the training steps in an entry's unchecked section. A step of a part, such as the prior, costs more."""
    if not isinstance(section, dict):
        return 0.0
    return sum(
        cost * each if key == "steps" and isinstance(each, int) else _steps(each, cost if key == "training" else PRIOR)
        for key, each in section.items()
    )
