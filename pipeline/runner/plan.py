"""The plan of a run: which stages may have to run, which of them may run now, and which goes first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Self

from dvc.exceptions import DvcException

from pipeline.common.params import Params
from pipeline.runner.dvc_stages import DvcStages

EVALUATION = 0.125  # work of an evaluation, as a share of its training
PRIOR = 2.5  # work of a step of a learned prior, in steps of an autoencoder
CLASSIFIER = 0.1  # of the classifier, which is small, and trained once while an entry is trained for each seed


@dataclass
class Plan:
    """Which stages may have to run, and which of them may run now."""

    upstream: Mapping[str, set[str]]  # stage → the stages that it depends on
    remaining_work: Mapping[str, float]  # of a stage and the longest way on from it to the end
    waiting: set[str]  # to run, not begun
    unfinished: set[str]

    @classmethod
    def of(
        cls, upstream: Mapping[str, set[str]], is_changed: Callable[[str], bool], work: Callable[[str], float]
    ) -> Self:
        """Plan what has changed and all that depends on it."""
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
        """The stages that can begin, those with the most work from there to the end first."""
        free = [name for name in self.waiting if not self.upstream[name] & self.unfinished]
        return sorted(free, key=lambda name: (-self.remaining_work[name], name))


def plan_run(dvc: DvcStages, params: Params, *, elsewhere: bool) -> Plan:
    """Plan what DVC calls changed. Where stages run `elsewhere`, outputs that are missing here count as unchanged."""

    def is_changed(name: str) -> bool:
        stage = dvc.stages[name]
        try:
            if not elsewhere:
                return bool(stage.changed())
            # DVC allows missing outputs even where a stage has never run.
            new = not all(each.hash_info for each in (*stage.deps, *stage.outs))
            return new or bool(
                stage.changed(allow_missing=True, upstream=[dvc.stages[on] for on in dvc.upstream[name]])
            )
        except DvcException:  # the stage will say it
            return True

    with dvc.turn():
        return Plan.of(dvc.upstream, is_changed, lambda name: estimate_work(name, params))


def estimate_work(name: str, params: Params) -> float:
    """Guess how long a stage takes, in training steps."""
    kind, _, entry = name.partition("@")
    if kind == "classify":
        return params.evaluation.classifier.steps * CLASSIFIER
    steps = _steps(params.variants.get(entry)) or params.training.steps
    return steps if kind == "train" else steps * EVALUATION


def _steps(section: Any, cost: float = 1.0) -> float:
    """The training steps that an entry names, those of its parts for what they cost; nobody has checked it yet."""
    if not isinstance(section, dict):
        return 0.0
    return sum(
        cost * each if key == "steps" and isinstance(each, int) else _steps(each, cost if key == "training" else PRIOR)
        for key, each in section.items()
    )
