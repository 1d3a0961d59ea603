"""Processes of tests/core/test_process_group.py, which train toy models together and write their results."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aelab.core import devices, process_group
from aelab.core.settings import Budget, TrainingOptions
from aelab.data.pairs import Pairs
from aelab.models.checkpoint import build
from aelab.quantizers.fsq import FiniteScalar
from aelab.training.loop import train
from tests.support.toys import IMAGE, PARAMETERS, SECTIONS, squares

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # variant, its parameters, changes of the training
    **{name: (name, parameters, {}) for name, parameters in PARAMETERS.items()},
    **{
        f"vqvae {name}": ("vqvae", PARAMETERS["vqvae"] | {"quantizer": {"name": name} | section}, {})
        for name, section in SECTIONS.items()
    },
    "ragged": ("tcvae", PARAMETERS["tcvae"], {"batch_size": 15}),  # 4 processes have 3, 4, 4 and 4 of its samples
    "ragged codebook": ("vqvae", PARAMETERS["vqvae"], {"batch_size": 15}),
    "an epoch of one batch": ("vae", PARAMETERS["vae"], {"batch_size": 64}),
    "bits": (
        "vqvae",
        PARAMETERS["vqvae"] | {"quantizer": {"name": "bsq", "bits": 4, "entropy": 10.0}},
        {},
    ),
    "vqvae fsq": (  # with a normaliser, the last bias has only a rounding error as gradient, which Adam scales up
        "vqvae",
        PARAMETERS["vqvae"] | {"quantizer": {"name": "fsq", "levels": [8, 5, 4], "normalise": False}},
        {},
    ),
    "few": ("vae", PARAMETERS["vae"], {"batch_size": 3}),  # fewer samples than processes
    "conv": ("vae", PARAMETERS["vae"] | {"network": {"name": "conv", "width": 8, "downsampling": 2}}, {}),
    "dynamic": ("vae", PARAMETERS["vae"], {"dynamic": True}),
    "from disk": ("dae", PARAMETERS["dae"], {"room": 0}),
    "bfloat16": ("vae", PARAMETERS["vae"], {"precision": "bfloat16"}),
}
STEPS = 6  # an epoch and a half of batches of 16


def own_noise(function: Any, shape: Any, generator: torch.Generator) -> Tensor:
    """Noise for this process's rows alone, so that the noise of a sample depends on its rank."""
    return function(shape, generator=generator, device=generator.device)


def alone(x: Tensor, *_: Any) -> Tensor:
    """Return the process's own rows, without communication."""
    return x


BROKEN: dict[str, dict[str, Any]] = {  # functions of `process_group`, and versions that ignore the other processes
    "noise": {"draw": own_noise},
    "codebook": {"mean": alone},
    "restarts": {"pick": lambda x, chosen: x[chosen % len(x)]},
    "batch": {"gather": alone},
    "gradients": {"reduce": lambda _parameters, losses, *_: losses},
}


def run(case: str, broken: str = "", device: str = "cpu", mode: Any = "eager") -> dict[str, Any]:
    """Train a case, and return its losses and a digest of weights and losses."""
    name, parameters, what = CASES[case]
    pixels = squares()
    shown = Pairs(np.concatenate([pixels // 2, pixels // 3]), pixels) if name == "dae" else Pairs.of(pixels)
    held = np.concatenate([pixels, pixels[:39] // 2])  # the last batch of its 103 has 3 samples
    budget = Budget(steps=STEPS, batch_size=what.get("batch_size", 16), learning_rate=0.01)
    options = TrainingOptions(mode=mode, points=STEPS, validations=3, precision=what.get("precision", "float32"))
    with pytest.MonkeyPatch.context() as patch:
        if "room" in what:
            patch.setattr("aelab.core.devices.room", lambda _: what["room"])
        for function, instead in BROKEN.get(broken, {}).items():
            patch.setattr(process_group, function, instead)
            for module in ("sparse", "tcvae", "wae"):
                patch.setattr(f"aelab.variants.{module}.gather", instead) if function == "gather" else None
        model = build(name, IMAGE, parameters, seed=0).to(device)
        results = train(model, shown, held, budget, seed=0, options=options, dynamic=what.get("dynamic", False))
    points = [point for result in results.values() for point in result.curve]
    losses = [value for point in points for key, value in point.items() if key.endswith("_loss")]
    state = b"".join(tensor.cpu().numpy().tobytes() for tensor in model.state_dict().values())
    return {"losses": losses, "state": hashlib.sha256(state + json.dumps(losses).encode()).hexdigest()}


def normalised(gather: Any = None) -> dict[str, Any]:
    """Bounded values of FSQ and their gradients for this process's rows of a batch, and the moments afterwards."""
    z = torch.randn(16, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + torch.arange(16).view(-1, 1, 1, 1)
    quantizer, weights = FiniteScalar(levels=[8, 5, 4]), z.flip(0)
    with process_group.split(16) as share, pytest.MonkeyPatch.context() as patch:
        if gather:
            patch.setattr(process_group, "gather", gather)
        mine = process_group.own_samples(16)
        x = z[mine].clone().requires_grad_()
        bounded = quantizer.bound(x)
        (share.weight * (bounded * weights[mine]).sum((1, 2, 3)).mean()).backward()
    assert x.grad is not None
    moments = torch.stack([quantizer.mean, quantizer.variance])
    return {"values": bounded.tolist(), "gradients": x.grad.tolist(), "moments": moments.tolist()}


def take_part(rank: int, folder: Path, cases: Sequence[str], environment: dict[str, str]) -> None:
    """Train all `cases`, each given as a name or as name:broken, and write the results as JSON."""
    os.environ |= environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    device, mode = os.environ.get("DEVICE", "cpu"), os.environ.get("MODE", "eager")
    process_group.begin(devices.prepare(device, 1))
    found = dict[str, Any]()
    for case in cases:
        name, _, broken = case.partition(":")
        found[case] = run(name, broken, device, mode)
    found["agree"] = [
        process_group.agree("all", torch.device(device)),
        process_group.agree(f"{process_group.rank()}", torch.device(device)),
        process_group.any_of(process_group.rank() == 1, torch.device(device)),
        process_group.any_of(False, torch.device(device)),
    ]
    found |= {"normalised": normalised(), "normalised alone": normalised(alone)}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    process_group.end()
