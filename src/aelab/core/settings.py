"""Settings of a training: steps, learning rate, precision and validation. The module does not import torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

COPIES = 5  # arrays as large as the weights in a training: weights, best weights, gradients, two moments of Adam

# A training keeps the learning rate of every step in memory, so the number of steps has a limit.
Steps: TypeAlias = Annotated[int, Field(ge=1, le=100_000_000, description="optimiser steps")]
BatchSize: TypeAlias = Annotated[int, Field(gt=0, description="images per step")]
LearningRate: TypeAlias = Annotated[float, Field(gt=0, le=1, description="peak learning rate of Adam")]
Schedule: TypeAlias = Annotated[
    Literal["one_cycle", "stairs", "constant"],
    Field(
        description="learning-rate schedule; stairs: 8 stages, each 3 times as long as the stage before, "
        "with a learning rate lower by a factor of 10^(1/7)"
    ),
]
Epsilon: TypeAlias = Annotated[float, Field(gt=0, le=1, description="ε of Adam")]
Clip: TypeAlias = Annotated[
    float | None, Field(gt=0, description="largest norm of the gradient; without the key, any norm is allowed")
]
Precision: TypeAlias = Annotated[
    Literal["float32", "bfloat16"],
    Field(description="number format of the arithmetic; bfloat16 needs hardware with instructions for it"),
]
Mode: TypeAlias = Annotated[
    Literal["graph", "eager"],
    Field(description="execution on a GPU: graph records a step once and replays it; eager runs each operation"),
]


class Budget(BaseModel):
    """Length and learning rate of a training.

    In `params.yaml`, an entry (a model with its settings) may override these values.

    Attributes:
        steps: Number of optimiser steps, from 1 to 100,000,000.
        batch_size: Images per step.
        learning_rate: Peak learning rate of Adam, above 0 and at most 1.
        schedule: Learning-rate schedule: "one_cycle", "stairs" or "constant".
        epsilon: ε of Adam, above 0 and at most 1.
        clip: Largest norm of the gradient, above 0; None: no limit. A longer gradient is scaled down to this norm
            (Pascanu et al. 2013, algorithm 1).
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    steps: Steps
    batch_size: BatchSize
    learning_rate: LearningRate
    schedule: Schedule = "one_cycle"
    epsilon: Epsilon = 1e-8
    clip: Clip = None

    def override(self, *overrides: Mapping[str, Any]) -> "Budget":
        """Return a copy with some values replaced. If several overrides contain a name, the last one counts.

        Args:
            *overrides: Mappings from names of attributes to values.

        Returns:
            The new budget.

        Raises:
            pydantic.ValidationError: A name is unknown, or a value is not allowed.
        """
        values = {key: getattr(self, key) for key in Budget.model_fields}
        for override in overrides:
            values |= override
        return Budget(**values)


class BudgetOverrides(TypedDict, total=False):
    """Values of `Budget` that an entry overrides for itself, or for one phase of its training."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[misc]

    steps: Steps
    batch_size: BatchSize
    learning_rate: LearningRate
    schedule: Schedule
    epsilon: Epsilon
    clip: Clip


class TrainingOptions(BaseModel):
    """Precision, execution and validation of a training. All phases of a training use the same options.

    Attributes:
        precision: Number format of the arithmetic: "float32" or "bfloat16".
        mode: Execution on a GPU: "graph" records a step once and replays it, "eager" runs each operation.
        points: Minimum number of points on the curve of the training loss. A training with fewer steps has a point for
            each step.
        validations: Number of validations during the training. The model ends with the weights of the lowest
            validation loss.
        validation_images: Images in each validation, evenly spread over the split.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    precision: Precision = "float32"
    mode: Mode = "graph"
    points: Annotated[
        int,
        Field(ge=1, le=10_000, description="minimum number of points on the training-loss curve"),
    ] = 100
    validations: Annotated[
        int, Field(ge=1, le=10_000, description="validations during each training, to find the best weights")
    ] = 10
    validation_images: Annotated[
        int, Field(gt=0, description="images in each validation, evenly spread over the split")
    ] = 2000
