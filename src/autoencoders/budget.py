"""How long, how fast and how exactly to train, as `params.yaml` says it; without importing torch."""

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from typing_extensions import TypedDict

LearningRate: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Precision: TypeAlias = Literal["float32", "bfloat16"]
Mode: TypeAlias = Literal["graph", "eager"]


class Budget(BaseModel):
    """How long and how fast a phase is trained; the keys under `training` in `params.yaml`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: LearningRate


class BudgetOverrides(TypedDict, total=False):
    """The keys of `Budget` that a variant or a phase sets for itself."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[misc]

    steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: LearningRate
