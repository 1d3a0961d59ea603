"""The entries of `params.yaml`: the keys of every entry, and those of the model that an entry names."""

from functools import cache
from typing import Any

from pydantic import Field

from aelab.core.sections import Section, union_of
from aelab.core.settings import BudgetOverrides


class Entry(Section):
    """One entry of `variants`: the keys of every entry; the constructor's arguments are added per model."""

    model: str = Field(description="what it is: a file in src/aelab/variants/")
    inputs: str = Field(
        description="what it sees in training: clean, or a corruption of `corruption.train` by its name"
    )
    training: BudgetOverrides = Field(default=BudgetOverrides(), description="what differs from the section `training`")

    def arguments(self) -> dict[str, Any]:
        """The arguments of the model's constructor."""
        return self.model_dump(exclude=set(Entry.model_fields))


@cache
def entries_type() -> Any:
    """The type of `variants`: each entry one of the sections of all models, by the name under `model`."""
    from aelab.models.base import VARIANTS  # noqa: PLC0415 - imports torch

    entry = union_of(VARIANTS, "model", Entry)
    return dict[str, entry]  # type: ignore[valid-type]
