"""How long, how fast and how exactly to train, as `params.yaml` says it; without importing torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from typing_extensions import TypedDict

LearningRate: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Steps: TypeAlias = Annotated[int, Field(ge=1, le=100_000_000)]  # each has its learning rate in memory
Precision: TypeAlias = Literal["float32", "bfloat16"]
Mode: TypeAlias = Literal["graph", "eager"]
Schedule: TypeAlias = Literal["one_cycle", "stairs", "constant"]
Epsilon: TypeAlias = Annotated[float, Field(gt=0, le=1)]


class Budget(BaseModel):
    """How long and how fast a phase is trained; the keys under `training` that entries may override."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    steps: Steps
    batch_size: PositiveInt
    learning_rate: LearningRate
    schedule: Schedule = "one_cycle"  # of the learning rate: see `optimiser`
    epsilon: Epsilon = 1e-8  # of Adam

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
    batch_size: PositiveInt
    learning_rate: LearningRate
    schedule: Schedule
    epsilon: Epsilon


class How(BaseModel):
    """How every phase is trained; more keys under `training`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    precision: Precision = "float32"
    mode: Mode = "graph"
    points: Annotated[int, Field(ge=1, le=10_000)] = 100
    validations: Annotated[int, Field(ge=1, le=10_000)] = 10
    validation_images: PositiveInt = 2000
