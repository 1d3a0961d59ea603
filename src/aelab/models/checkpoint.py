"""Checkpoints of models. A checkpoint is one file with the weights, the arguments for `build`, and a checksum."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aelab.core import tensor_file
from aelab.core.errors import UserError
from aelab.models.base import VARIANTS, Autoencoder


def save(model: Autoencoder, path: Path | str) -> None:
    """Write a model to one file: its weights, its configuration and a checksum.

    Args:
        model: a model from `build` or `load`.
        path: the file to write. An older file is replaced atomically.

    Raises:
        UserError: neither `build` nor `load` made the model, or the folder cannot be written to.
    """
    if getattr(model, "configuration", None) is None:
        msg = f"cannot save this {type(model).__name__}: only models from aelab.build and aelab.load can be rebuilt"
        raise UserError(msg)
    tensor_file.write(Path(path), model.state_dict(), model.configuration)


def load(path: Path | str, device: torch.device | str = "cpu") -> Autoencoder:
    """Load a model from a file. Loading runs no code from the file.

    Args:
        path: a file that `save` wrote.
        device: the device for the weights.

    Returns:
        The model in evaluation mode. `encode` and `decode` do not check their arguments.

    Raises:
        UserError: the file is missing, does not contain a model of this package, or has changed since `save` wrote it.
    """
    try:
        tensors, configuration = tensor_file.read(Path(path))
        model = build(configuration["variant"], configuration["image"], configuration["parameters"])
        model.load_state_dict(tensors)
    except (UserError, LookupError, TypeError, ValueError, RuntimeError) as error:
        msg = f"{path} is not a trained model of this project: {error}"
        raise UserError(msg) from error
    return model.to(device).eval()


def build(variant: str, image: Sequence[int], parameters: Mapping[str, Any], seed: int | None = None) -> Autoencoder:
    """Build a new, untrained model on the CPU.

    Args:
        variant: the name of the variant's file in `aelab.variants`, without `.py`.
        image: (C, H, W) of the images.
        parameters: the keyword arguments of the variant's constructor.
        seed: seed for torch's global generator, which draws the initial weights. With None, no seed is set.

    Returns:
        The model, in training mode.

    Raises:
        LookupError: there is no such variant, or no such network, likelihood, prior or quantiser.
        TypeError, ValueError: the parameters do not fit the constructor or the images.
    """
    if seed is not None:
        torch.manual_seed(seed)
    channels, height, width = image
    model = VARIANTS.find(variant)((channels, height, width), **parameters).to(memory_format=torch.channels_last)
    model.configuration = {"variant": variant, "image": list(image), "parameters": dict(parameters)}
    return model
