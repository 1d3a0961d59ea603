"""The public functions document every argument, in Google's style; `help()` and the site show this text."""

import inspect
import re
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

import aelab
from aelab.models.base import Autoencoder, Learner
from aelab.models.discrete import DiscreteAutoencoder
from aelab.models.likelihood import Likelihood
from aelab.models.network import Network
from aelab.models.prior import Prior
from aelab.models.quantizer import Quantizer

FUNCTIONS = [each for each in (getattr(aelab, name) for name in aelab.__all__) if inspect.isfunction(each)]
METHODS = [
    method
    for kind in (Learner, Autoencoder, DiscreteAutoencoder, Network, Likelihood, Prior, Quantizer)
    for name, method in vars(kind).items()
    if inspect.isfunction(method) and not name.startswith("_") and name != "forward"
]


def missing(function: Callable[..., Any]) -> list[str]:
    """Parts of the signature that the docstring leaves out: arguments by name, "Returns" or "Yields"."""
    text = inspect.getdoc(function) or ""
    arguments = [name for name in inspect.signature(function).parameters if name != "self"]
    lacking = [name for name in arguments if not re.search(rf"^    {re.escape(name)}: \S", text, re.MULTILINE)]
    if get_type_hints(function).get("return", type(None)) is not type(None) and not re.search(
        r"^(Returns|Yields):$", text, re.MULTILINE
    ):
        lacking.append("Returns")
    return lacking


@pytest.mark.parametrize("function", [*FUNCTIONS, *METHODS], ids=lambda each: each.__qualname__)
def test_a_public_function_documents_its_arguments_and_its_result(function: Callable[..., Any]) -> None:
    assert missing(function) == []


def test_a_part_that_a_docstring_leaves_out_is_noticed() -> None:
    def mean(x: list[float], axis: int) -> float:  # noqa: ARG001
        """Mean of numbers.

        Args:
            x: the numbers.
        """
        return sum(x)

    assert missing(mean) == ["axis", "Returns"]
    assert len(FUNCTIONS) > 10 and len(METHODS) > 25  # noqa: PT018
