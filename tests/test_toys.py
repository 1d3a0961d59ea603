"""The automatic choice of test values for the keys of a new part, and its message if there is no value."""

from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, Field, TypeAdapter

from aelab.core.registry import keys_of
from aelab.models.quantizer import QuantizerSection
from tests.support.toys import KNOWN, toy_keys


def impossible(value: object) -> object:
    msg = f"not {value}"
    raise ValueError(msg)


class Part:
    """A part as a user might write it."""

    def __init__(
        self,
        image: tuple[int, int, int],
        *,
        few: Annotated[int, Field(ge=2, le=3)],
        many: Annotated[int, Field(gt=1000)],
        share: Annotated[float, Field(gt=0, lt=0.01)],
        temperature: Annotated[float, Field(ge=10)],
        kind: Literal["soft", "hard"],
        sizes: Annotated[list[Annotated[int, Field(ge=16)]], Field(min_length=3)],
        names: list[str],
        maybe: int | None,
        flag: bool,
        codes: QuantizerSection,
        width: int = 7,
    ) -> None: ...


def test_values_are_found_for_keys_of_any_kind() -> None:
    found = toy_keys(Part, KNOWN)
    assert set(found) == {key.name for key in keys_of(Part)} - {"width"}  # `width` has a default
    for key in keys_of(Part):
        if key.name in found and key.name != "codes":
            TypeAdapter(key.annotation).validate_python(found[key.name], strict=True)
    assert found["codes"]["name"]


def test_a_key_for_which_none_is_found_is_a_sentence() -> None:
    class Picky:
        def __init__(self, *, mood: Annotated[str, AfterValidator(impossible)]) -> None: ...

    with pytest.raises(
        AssertionError, match=r"toys\.py finds no value for the key mood of Picky: write one into KNOWN"
    ):
        toy_keys(Picky, {})
