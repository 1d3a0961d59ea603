"""What a notebook calls and no stage does: doors that take nothing for granted, and say in a sentence what is wrong."""

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError

from aelab.core.errors import UserError, did_you_mean
from aelab.core.sections import Section, in_sentences, union_of
from aelab.core.tensors import device_of
from aelab.data import datasets
from aelab.data.checks import DIMENSIONS, described
from aelab.data.datasets import Data
from aelab.evaluation import figures
from aelab.ingest import image_folder
from aelab.models import checkpoint
from aelab.models.base import VARIANTS, Autoencoder
from aelab.models.latent import parts

Images: TypeAlias = NDArray[Any] | torch.Tensor  # (N, C, H, W): uint8, or floats from 0 to 1

SHOWN = 5  # left-out files that a warning names


class Model(Section):
    """What `build` is told beside the parameters."""

    model: str = Field(description="a file in src/aelab/variants/")


def build(variant: str, image: Sequence[int], parameters: Mapping[str, Any], seed: int | None = None) -> Autoencoder:
    """A new model, as `models.checkpoint.build` makes it; its `encode`, `decode` and `reconstruct` check what they get.

    Raises:
        UserError: the model or a key is unknown, a value is not allowed, or does not fit the images.
    """
    _check_shape(image)
    try:
        TypeAdapter(union_of(VARIANTS, "model", Model)).validate_python({**parameters, "model": variant})
        return _checking(checkpoint.build(variant, image, parameters, seed))
    except ValidationError as error:
        raise UserError("\n".join(each.removeprefix(".") for each in in_sentences(error, Model))) from error
    except (LookupError, TypeError, ValueError) as error:
        msg = f"{variant} cannot be built for images of shape {tuple(image)}: {error}"
        raise UserError(msg) from error


def load(path: Path | str, device: torch.device | str = "cpu") -> Autoencoder:
    """The model in `path`, as `models.checkpoint.load` reads it; it checks what it gets, as that of `build` does."""
    return _checking(checkpoint.load(path, device))


@torch.no_grad()
def _checking(model: Autoencoder) -> Autoencoder:
    """The model, which from now on checks what its methods get."""
    training = model.training
    code = model.eval().encode(torch.zeros(1, *model.image, device=device_of(model)))
    model.code_shapes = [part.shape[1:] for part in parts(code)]
    return model.train(training)


def _check_shape(image: object, channels: Sequence[int] = ()) -> None:
    whole = isinstance(image, tuple | list) and all(isinstance(each, int) and each > 0 for each in image)
    if not whole or len(image) != 3 or (channels and image[0] not in channels):  # type: ignore[arg-type, index] # noqa: PLR2004
        allowed = f", C being {' or '.join(map(str, channels))}" if channels else ""
        msg = f"the shape of the images is (C, H, W), such as (3, 64, 64){allowed}; what came is {image}"
        raise UserError(msg)


def load_folder(
    path: Path | str,
    image: datasets.Shape,
    *,
    fit: image_folder.Fit = "crop",
    bits: int = image_folder.FULL,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> Data:
    """A folder of images as a data set, split into train, validation and test; its subfolders are the classes.

    Args:
        path: the folder; `~` is the home folder.
        image: (C, H, W) that every image becomes; C is 1 (gray) or 3 (colour).
        fit: how an image of another aspect comes to H×W: "crop", "pad", "stretch" or "exact".
        bits: 8 … 16, of a 16-bit file those that its values fill.
        validation: share of what is not for the test that is held out to pick weights and settings by.
        test: share of the images that is held out for the test.
        seed: of the split.

    Raises:
        UserError: there is no such folder, or too few images in it that can be read. Files that cannot be read are left
            out, and a warning names them; others tell what may not be expected of classes and of 16-bit files.
    """
    _check_shape(image, channels=(1, 3))
    if fit not in (fits := get_args(image_folder.Fit)):
        msg = f"there is no fit {fit!r}; there are {', '.join(fits)}{did_you_mean(str(fit), fits)}"
        raise UserError(msg)
    folder = Path(path).expanduser()
    with tempfile.TemporaryDirectory() as scratch:
        workers = os.cpu_count() or 1
        found = image_folder.read(folder, image, fit=fit, bits=bits, scratch=Path(scratch), workers=workers)
    for note in found.notes:
        warnings.warn(f"{folder}: {note}", stacklevel=2)
    if found.left_out:
        some = "; ".join(f"{each.path} {each.reason}" for each in found.left_out[:SHOWN])
        more = f"; and {len(found.left_out) - SHOWN} more" if len(found.left_out) > SHOWN else ""
        warnings.warn(f"left out of {folder}: {some}{more}", stacklevel=2)
    everything = datasets.Split(found.images, found.labels)
    return datasets.divide(everything, f"folder {folder}", validation=validation, test=test, seed=seed)


def show(rows: Mapping[str, Images]) -> Image.Image:
    """Rows of images, each with its label, as a picture; a notebook draws what a cell ends with.

    Args:
        rows: by label, as many images (N, C, H, W) in each: stored ones (uint8), or floats from 0 to 1 as a model gives
            them.

    Raises:
        UserError: they are no images, or of several sizes or numbers.
    """
    if not isinstance(rows, Mapping) or not rows:
        msg = f"images are shown by label, as {{'original': x}}; what came is {next(described(rows))}"
        raise UserError(msg)
    drawn = [(label, _drawable(label, images)) for label, images in rows.items()]
    shapes = {label: images.shape for label, images in drawn}
    if len(set(shapes.values())) > 1:
        msg = f"rows of one picture hold as many images, of one size; what came is {shapes}"
        raise UserError(msg)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "rows.png")
        figures.images(drawn, path)
        with Image.open(path) as picture:
            return picture.convert("RGB")


def _drawable(label: str, images: Images) -> NDArray[np.float32]:
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else images
    known = isinstance(array, np.ndarray) and (array.dtype == np.uint8 or array.dtype.kind == "f")
    if not known or array.ndim != DIMENSIONS or array.shape[1] not in (1, 3) or not array.size:
        msg = (
            f"images to show are (N, C, H, W), uint8 or floats from 0 to 1, C being 1 or 3; what came as {label!r} is "
            f"{next(described(images))}"
        )
        raise UserError(msg)
    return (array / np.float32(255 if array.dtype == np.uint8 else 1)).clip(0, 1)
