"""The types of the entries in `params.yaml`. An entry is a section of `variants`: the configuration of one model."""

from functools import cache
from typing import Any

from pydantic import Field

from aelab.core.sections import Section, union_of
from aelab.core.settings import BudgetOverrides


class Entry(Section):
    """Configuration of one model, with the keys that every entry has.

    The keyword arguments of the model's constructor are further keys of the entry.
    """

    model: str = Field(description="the model: a file in src/aelab/variants/")
    inputs: str = Field(description="the training images: clean, or the name of a corruption in `corruption.train`")
    training: BudgetOverrides = Field(
        default=BudgetOverrides(), description="keys that override the section `training`"
    )

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the model's constructor."""
        return self.model_dump(exclude=set(Entry.model_fields))


@cache
def entries_type() -> Any:
    """Return the pydantic type of the section `variants`. An entry's key `model` decides which keys are allowed."""
    from aelab.models.base import VARIANTS  # noqa: PLC0415 - imports torch

    entry = union_of(VARIANTS, "model", Entry)
    return dict[str, entry]  # type: ignore[valid-type]
