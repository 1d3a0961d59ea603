"""How long, how fast and how exactly to train, as `params.yaml` says it; without importing torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

COPIES = 5  # of the weights in training: themselves, the best ones, gradients, two moments

# At most so many steps: each has its learning rate in memory.
Steps: TypeAlias = Annotated[int, Field(ge=1, le=100_000_000, description="optimiser steps")]
BatchSize: TypeAlias = Annotated[int, Field(gt=0, description="images per step")]
LearningRate: TypeAlias = Annotated[float, Field(gt=0, le=1, description="of Adam, at its peak")]
Schedule: TypeAlias = Annotated[
    Literal["one_cycle", "stairs", "constant"],
    Field(description="of the learning rate; stairs: 8 stages, each 3 times as long and slower by 10^(1/7)"),
]
Epsilon: TypeAlias = Annotated[float, Field(gt=0, le=1, description="of Adam")]
Clip: TypeAlias = Annotated[
    float | None, Field(gt=0, description="largest norm of the gradient; without the key, any norm is allowed")
]
Precision: TypeAlias = Annotated[
    Literal["float32", "bfloat16"], Field(description="of the arithmetic; bfloat16 where the hardware is fast at it")
]
Mode: TypeAlias = Annotated[
    Literal["graph", "eager"],
    Field(description="on a GPU: graph (a step is recorded once and replayed) or eager (operation by operation)"),
]


class Budget(BaseModel):
    """How long and how fast a phase is trained; the keys under `training` that entries may override."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    steps: Steps
    batch_size: BatchSize
    learning_rate: LearningRate
    schedule: Schedule = "one_cycle"
    epsilon: Epsilon = 1e-8
    clip: Clip = None

    def override(self, *overrides: Mapping[str, Any]) -> "Budget":
        """The budget after `overrides`, the last one counting most."""
        values = {key: getattr(self, key) for key in Budget.model_fields}
        for override in overrides:
            values |= override
        return Budget(**values)


class BudgetOverrides(TypedDict, total=False):
    """The keys of `Budget` that an entry or a phase sets for itself."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[misc]

    steps: Steps
    batch_size: BatchSize
    learning_rate: LearningRate
    schedule: Schedule
    epsilon: Epsilon
    clip: Clip


class TrainingOptions(BaseModel):
    """How every phase is trained; more keys under `training`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    precision: Precision = "float32"
    mode: Mode = "graph"
    points: Annotated[int, Field(ge=1, le=10_000, description="of each training's curve, at least")] = 100
    validations: Annotated[int, Field(ge=1, le=10_000, description="of each training; the best weights are kept")] = 10
    validation_images: Annotated[int, Field(gt=0, description="for each validation, evenly spread")] = 2000
