"""Random parameters, which must either be refused with a sentence that names the key, or train without an error."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from ruamel.yaml import YAML

from aelab.core.errors import UserError
from aelab.core.settings import Budget, TrainingOptions
from aelab.data.pairs import Pairs
from aelab.models import checkpoint
from aelab.training.loop import fit
from faults.table import Counts
from pipeline.common import params
from tests.support.project import REPOSITORY

DEFAULT: dict[str, Any] = YAML(typ="safe", pure=True).load(REPOSITORY / "params.yaml")
SENTENCE = re.compile(r"params\.yaml: .+")
ODD: tuple[Any, ...] = (  # unusual values for a parameter
    None, True, False, 0, 1, 2, 3, 5, 7, 32, -1, 10**6, 10**12, 10**30, 2**31, 2**63, 0.0, -0.0, 1e-300, 1e300, 0.5,
    1.0, float("nan"), float("inf"), -float("inf"), "", " ", "1e-3", "0.5", "nan", "auto", "cpu", "cuda", "ae", "vqvae",
    "mlp", "patches", "conv", "codebook", "logistic", "bernoulli", "digits", "cifar10", "../../etc", "$(touch pwned)",
    "`id`", "<script>alert(1)</script>", "=1+1", "| |", "\x00", "ü" * 300, [], [[]], [0, 0], [1, 2], {},
    {"name": "mlp"}, {"name": "patches", "width": 8}, {"a": {"b": {"c": 1}}},
)  # fmt: skip


def places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in nested mappings and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """Return the default parameters with one to three changes: another value, a missing key or an extra key."""
    content = copy.deepcopy(DEFAULT)
    for _ in range(draw(st.integers(1, 3))):
        there = list(places(content))
        if not there:
            break
        *above, key = draw(st.sampled_from(there))
        section = content
        for each in above:
            section = section[each]
        what = draw(st.sampled_from(["near", "near", "value", "value", "gone", "more"]))
        if what == "gone":
            del section[key]
        elif what == "near" and type(section[key]) is int:
            section[key] = draw(st.integers(1, 40))
        elif what == "near" and type(section[key]) is float:
            section[key] = draw(st.floats(0.01, 1.0, allow_subnormal=False))
        else:
            value = draw(st.sampled_from(ODD) | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=20))
            new = draw(st.text(max_size=10)) if what == "more" and isinstance(section, dict) else key
            section[new] = copy.deepcopy(value)
    return content


def fuzz(folder: Path, seed: int, count: int) -> Iterator[Counts]:
    """Check random parameters from the library hypothesis, and train entries of accepted parameters for two steps."""
    counts = Counts(
        "fuzzed params.yaml",
        "a message names the faulty key before any stage runs, or the parameters are accepted and trained",
        count,
    )
    accepted: set[str] = set()
    folder.mkdir(exist_ok=True)

    @with_seed(seed)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(changed())
    def one(content: Any) -> None:
        if counts.tried < count:
            counts.add(*outcome(content, accepted))

    while counts.tried < count:  # hypothesis stops early if it finds no new examples
        one()
        seed += 1
        one = with_seed(seed)(one)
    counts.remark = f"{len(accepted)} different settings were accepted and trained"
    yield counts


def outcome(content: Any, accepted: set[str]) -> tuple[bool, str]:
    """Return whether the parameters were refused with proper messages or were trained, and the failure if neither."""
    try:
        checked = params.check(content)
    except UserError as error:
        lines = str(error).splitlines()
        return all(SENTENCE.fullmatch(line) for line in lines), f"refused as {error}"
    except Exception as error:  # noqa: BLE001 - every outcome is counted
        return False, f"{content}: {type(error).__name__}: {error}"
    try:
        for name in checked.variants:
            _run(checked, name, accepted)
    except UserError:
        return True, ""
    except Exception as error:  # noqa: BLE001
        return False, f"accepted, and then {type(error).__name__}: {error} in {content}"
    return True, ""


def _run(checked: params.Params, name: str, accepted: set[str]) -> None:
    """Train one entry (a model configuration) for two steps, unless an equal entry was trained before."""
    entry, image = checked.entry(name), checked.dataset.image
    key = repr((entry, image))
    if key in accepted:
        return
    accepted.add(key)
    pixels = np.random.default_rng(0).integers(0, 256, (4, *image), dtype=np.uint8)
    model = checkpoint.build(entry.model, image, entry.arguments(), 0)
    budget = Budget(steps=2, batch_size=2, learning_rate=min(checked.training.learning_rate, 0.01))
    for phase in model.phases()[:1]:  # PCA and the identity are not trained, so they have no phase
        fit(phase.module, Pairs(pixels, pixels), Pairs(pixels, pixels), budget, seed=0,
                     options=TrainingOptions(mode="eager"))  # fmt: skip
