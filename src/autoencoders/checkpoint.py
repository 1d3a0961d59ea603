"""A trained variant as one safetensors file: its weights, and in the header the configuration that rebuilds it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from autoencoders.base import Autoencoder, Shape
from autoencoders.errors import UserError
from autoencoders.variants import VARIANTS


def save(model: Autoencoder, variant: str, parameters: Mapping[str, Any], path: Path) -> None:
    """Write `model`, a `variant` with constructor arguments `parameters`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    configuration = {"variant": variant, "image": model.image, "parameters": parameters}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"autoencoder": json.dumps(configuration, sort_keys=True)})


def load(path: Path, device: torch.device | str = "cpu") -> Autoencoder:
    """The model in `path`, in evaluation mode on `device`. Loading runs no code from the file.

    Raises:
        UserError: the file is not a model of this package.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            configuration = json.loads((file.metadata() or {})["autoencoder"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
        model = build(configuration["variant"], tuple(configuration["image"]), configuration["parameters"])
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, LookupError, TypeError, ValueError, RuntimeError) as error:
        msg = f"{path} is not a trained model of this project: {error}"
        raise UserError(msg) from error
    return model.to(device).eval()


def build(variant: str, image: Shape, parameters: Mapping[str, Any]) -> Autoencoder:
    """A new model of `variant`, constructed with `parameters`; its weights come from torch's global generator."""
    return VARIANTS.find(variant)(image, **parameters).to(memory_format=torch.channels_last)
