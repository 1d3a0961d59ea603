"""A trained variant as one sealed file: its weights, and with them the configuration that rebuilds it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aelab.core import tensor_file
from aelab.core.errors import UserError
from aelab.models.base import VARIANTS, Autoencoder


def save(model: Autoencoder, path: Path | str) -> None:
    """Write a `model` that `build` or `load` made.

    Raises:
        UserError: it is another model, or the folder cannot be written to.
    """
    if getattr(model, "configuration", None) is None:
        msg = f"a {type(model).__name__} that `build` did not make cannot be saved: its file has to say how to build it"
        raise UserError(msg)
    tensor_file.write(Path(path), model.state_dict(), model.configuration)


def load(path: Path | str, device: torch.device | str = "cpu") -> Autoencoder:
    """The model in `path`, in evaluation mode on `device`. Loading runs no code from the file.

    Raises:
        UserError: the file is not a model of this package, or not as it was written.
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
    """A new model.

    Args:
        variant: the name of its file in `aelab.variants`.
        image: (C, H, W) of the images.
        parameters: the arguments of its constructor.
        seed: of its weights; without one they come from torch's global generator as it is.

    Raises:
        LookupError: there is no such variant, or no such part of it.
        TypeError, ValueError: the parameters do not fit its constructor, or the images.
    """
    if seed is not None:
        torch.manual_seed(seed)
    channels, height, width = image
    model = VARIANTS.find(variant)((channels, height, width), **parameters).to(memory_format=torch.channels_last)
    model.configuration = {"variant": variant, "image": list(image), "parameters": dict(parameters)}
    return model
