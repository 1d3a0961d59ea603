"""Toy images, toy parameters of every part, and toy models."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from aelab.core.registry import keys_of, registry_of
from aelab.data.pairs import Pairs
from aelab.models import checkpoint
from aelab.models.base import VARIANTS, Autoencoder, Batch, Learner, Losses
from aelab.models.likelihood import LIKELIHOODS
from aelab.models.network import NETWORKS
from aelab.models.prior import PRIORS
from aelab.models.quantizer import QUANTIZERS
from aelab.training.snapshots import Snapshots
from aelab.training.state import PhaseResult

IMAGE = (1, 8, 8)
NETWORK = {"name": "patches", "width": 8}
# Values for keys that are not in KNOWN. A key gets the first value that its annotation allows.
ANY: tuple[Any, ...] = (4, 0.5, [4], "a", True, {})


def toy_keys(part: type, known: Mapping[str, Any]) -> dict[str, Any]:
    """Toy values of the keys without a default in a part's constructor: from `known`, or any allowed value.

    Thanks to this function, the tests of all parts include a new part without any change.
    """
    return {key.name: toy_value(key, known, part) for key in needed_keys(part)}


def needed_keys(part: type) -> list[inspect.Parameter]:
    return [key for key in keys_of(part) if key.default is key.empty]


def toy_value(key: inspect.Parameter, known: Mapping[str, Any], part: type) -> Any:
    """Toy value of a key: from `known`, else from `ANY`, else a choice or a bound that the annotation names."""
    if registry := registry_of(key.annotation):
        simplest = min(registry.available(), key=lambda name: len(needed_keys(registry.find(name))))
        section = known.get(key.name, "")
        is_one = (section["name"] if "name" in section else str(section)) in registry.available()
        return section if is_one else {"name": simplest} | toy_keys(registry.find(simplest), known)
    adapter = TypeAdapter(key.annotation)
    for value in (*([known[key.name]] if key.name in known else []), *ANY, *named(adapter.json_schema())):
        with contextlib.suppress(ValidationError):
            adapter.validate_python(value, strict=True)
            return value
    msg = f"tests/support/toys.py finds no value for the key {key.name} of {part.__name__}: write one into KNOWN there"
    raise AssertionError(msg)


def named(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Values that a JSON Schema names, and values next to its bounds."""
    yield from schema.get("enum", [])
    bounds = [schema[key] for key in ("const", "minimum", "maximum", "exclusiveMinimum") if key in schema]
    yield from bounds
    yield from (bound + step for bound in bounds if isinstance(bound, int | float) for step in (1, 1e-3))
    if "items" in schema:
        yield from ([each] * schema.get("minItems", 1) for each in (*ANY, *named(schema["items"])))
    for choice in schema.get("anyOf", []):
        yield from named(choice)


# Values for keys with these names, for which the first allowed value of ANY would be too large or make no sense.
KNOWN = {
    "network": NETWORK,
    "likelihood": "bernoulli",
    "quantizer": {"name": "codebook", "codes": 16, "dimensions": 4},
    "prior": {"width": 16, "layers": 1, "heads": 2, "training": {"steps": 4}},
    "beta": 1.0,
    "penalty": 0.1,
    "samples": 3,
    "width": 8,
    "layers": 2,
    "channels": 2,
}
# Values for single variants.
OTHERS: dict[str, dict[str, Any]] = {"tcvae": {"beta": 4.0}, "wae": {"penalty": 10.0}, "vqvae": {"beta": 0.25}}
PARAMETERS = {  # toy parameters of every variant
    name: toy_keys(VARIANTS.find(name), KNOWN | OTHERS.get(name, {})) for name in VARIANTS.available()
}
LEARNING = [name for name in VARIANTS.available() if not VARIANTS.find(name).floor]  # variants that are trained
SECTIONS = {  # toy keys of every quantiser, for vectors of 3 numbers
    name: toy_keys(
        QUANTIZERS.find(name), KNOWN | {"codes": 7, "dimensions": 3, "depth": 4, "levels": [8, 5, 4], "bits": 3}
    )
    for name in QUANTIZERS.available()
}
NETWORK_KEYS = {  # toy keys of every network
    name: toy_keys(NETWORKS.find(name), KNOWN | {"hidden": [12, 10]}) for name in NETWORKS.available()
}
LIKELIHOOD_SECTIONS = {  # toy section of every likelihood
    name: {"name": name} | toy_keys(LIKELIHOODS.find(name), KNOWN) for name in LIKELIHOODS.available()
}
PRIOR_SECTIONS = {  # toy section of every prior
    name: {"name": name} | toy_keys(PRIORS.find(name), KNOWN | {"code": 3, "hidden": [8], "components": 5})
    for name in PRIORS.available()
}

# Toy parameters of models that together contain every part. The first word of a name is the variant.
CASES: dict[str, dict[str, Any]] = {
    **PARAMETERS,
    **{f"vqvae {name}": PARAMETERS["vqvae"] | {"quantizer": {"name": name} | keys} for name, keys in SECTIONS.items()},
    **{f"ae {name}": PARAMETERS["ae"] | {"network": {"name": name} | keys} for name, keys in NETWORK_KEYS.items()},
    **{f"vae {name}": PARAMETERS["vae"] | {"likelihood": section} for name, section in LIKELIHOOD_SECTIONS.items()},
    **{f"vae {name}": PARAMETERS["vae"] | {"prior": section} for name, section in PRIOR_SECTIONS.items()},
}


def batch(
    inputs: Tensor, targets: Tensor, generator: torch.Generator, step: int = 10, steps: int = 10, samples: int = 0
) -> Batch:
    """Batch for a loss. By default, the training has ended, and the batch has all training images."""
    return Batch(inputs, targets, generator, torch.tensor(step), steps, samples or len(targets))


def squares() -> NDArray[np.uint8]:
    """Toy images with a bright square at a random place on black, uint8 (64, 1, 8, 8)."""
    rng = np.random.default_rng(0)
    images = np.zeros((64, *IMAGE), np.uint8)
    for image in images:
        top, left = rng.integers(0, 5, 2)
        image[0, top : top + 3, left : left + 3] = rng.integers(128, 256)
    return images


def toy_model(variant: str, **changes: object) -> Autoencoder:
    model = checkpoint.build(variant, IMAGE, PARAMETERS[variant] | changes, seed=0).eval()
    model.start_from(torch.rand(8, *IMAGE))
    return model


CLASSES = 4


def quadrants(count: int, seed: int, *, shuffled: bool = False) -> Pairs:
    """Images of noise with one bright quadrant, whose number is the class. With `shuffled`, classes are random."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (count, *IMAGE), np.uint8)
    labels = np.arange(count) % CLASSES
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * (label // 2) : 4 + 4 * (label // 2), 4 * (label % 2) : 4 + 4 * (label % 2)] += 100
    return Pairs(images, rng.permutation(labels) if shuffled else labels)


class Recorder(Learner):
    """Learner that learns nothing, and remembers its inputs in training."""

    def __init__(self, loss: Callable[[int], float] = lambda _: 1.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.value, self.seen, self.noise = loss, [], []  # type: ignore[var-annotated]

    def loss(self, batch: Batch) -> Losses:
        if self.training:
            self.seen.append((batch.inputs.clone(), batch.targets.clone()))
            self.noise.append(torch.rand((), generator=batch.generator, device=batch.generator.device).item())
        return {"loss": self.weight * 1.0 + self.value(len(self.seen))}


class StopsAt(Snapshots):
    """Snapshots that stop the training with a snapshot after `count` calls of `due`."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(folder, every=0.0)
        self.left = count
        self.stop = lambda: self.left <= 0

    def due(self) -> bool:
        self.left -= 1
        return self.left <= 0


def ended(model: Autoencoder, results: dict[str, PhaseResult]) -> tuple[list[bytes], list[Any]]:
    """Bits of the weights, and results without times."""
    weights = [value.cpu().numpy().tobytes() for value in model.state_dict().values()]
    curves = [
        [{key: value for key, value in point.items() if key not in {"time", "seconds"}} for point in result.curve]
        for result in results.values()
    ]
    return weights, [curves, [(each.best_step, each.images, each.diverged_at_step) for each in results.values()]]
