"""Functions for notebooks. Each function checks its arguments. A `UserError` says what is wrong with an argument."""

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

SHOWN = 5  # maximum number of left-out files in a warning


class Model(Section):
    """Section of parameters with the key `model`. `build` adds this key, and then checks all keys."""

    model: str = Field(description="a file in src/aelab/variants/")


def build(variant: str, image: Sequence[int], parameters: Mapping[str, Any], seed: int | None = None) -> Autoencoder:
    """Build a new model with random weights.

    The model's methods `encode`, `decode` and `reconstruct` check their arguments, and raise a `UserError` for images
    or codes of another type, shape or range.

    Args:
        variant: Name of the model, such as "vae": a file in `aelab.variants`.
        image: Shape (C, H, W) of the images, such as (1, 28, 28).
        parameters: Keyword arguments of the model's constructor, such as `network` and `code`.
        seed: Seed of the random weights. Without a seed, the weights depend on the state of torch's global generator.

    Returns:
        The model on the CPU, in training mode.

    Raises:
        UserError: There is no such model or no such key, a value is not allowed, or a value does not fit the images.
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
    """Load a trained model from a file. Loading runs no code from the file.

    The model's methods `encode`, `decode` and `reconstruct` check their arguments, as after `build`.

    Args:
        path: File that `checkpoint.save` has written, such as "models/vae/seed0.safetensors".
        device: Device for the model.

    Returns:
        The model on `device`, in evaluation mode.

    Raises:
        UserError: The file is missing or damaged, or contains no model of this package.
    """
    return _checking(checkpoint.load(path, device))


@torch.no_grad()
def _checking(model: Autoencoder) -> Autoencoder:
    """Switch on the checks of arguments in the methods of `model`, and return `model`."""
    training = model.training
    code = model.eval().encode(torch.zeros(1, *model.image, device=device_of(model)))
    model.code_shapes = [part.shape[1:] for part in parts(code)]
    return model.train(training)


def _check_shape(image: object, channels: Sequence[int] = ()) -> None:
    whole = isinstance(image, tuple | list) and all(isinstance(each, int) and each > 0 for each in image)
    if not whole or len(image) != 3 or (channels and image[0] not in channels):  # type: ignore[arg-type, index] # noqa: PLR2004
        allowed = f", C being {' or '.join(map(str, channels))}" if channels else ""
        msg = f"the shape of the images must be (C, H, W), such as (3, 64, 64){allowed}; got {image}"
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
    """Load a folder of images as a data set, split at random into train, validation and test.

    The subfolders are the classes. Files that cannot be read are left out, and a warning names the first five. Other
    warnings point out unusual classes and unusual 16-bit files.

    Args:
        path: Folder of the images. `~` stands for the home folder.
        image: Shape (C, H, W) of the resulting images. C is 1 (gray) or 3 (colour); H and W are in pixels.
        fit: How an image of another size gets this shape. "crop" resizes the image and cuts off two borders. "pad"
            resizes the image and adds two black borders. "stretch" changes the aspect ratio. "exact" leaves the image
            out.
        bits: Number of bits that the values in 16-bit files use, from 8 to 16; for example, 12 for values up to 4095.
        validation: Size of the validation split, as a share of the images that are not in the test split.
        test: Size of the test split, as a share of all images. Both shares are from 0 to less than 1.
        seed: Seed of the random split.

    Returns:
        The data set. Its `train`, `validation` and `test` are uint8 images (N, C, H, W).

    Raises:
        UserError: The folder is missing or has too few readable images, or an argument is out of range.
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
    """Draw rows of images as one picture. A notebook shows the picture if the call is the last line of a cell.

    Args:
        rows: The images (N, C, H, W) of each row, by the label of the row. The images are uint8, or floats from 0 to 1.
            All rows have the same shape.

    Returns:
        The picture, in RGB.

    Raises:
        UserError: A row has no images, or the rows differ in shape.
    """
    if not isinstance(rows, Mapping) or not rows:
        msg = f"images to show must have labels, as in {{'original': x}}; got {next(described(rows))}"
        raise UserError(msg)
    drawn = [(label, _drawable(label, images)) for label, images in rows.items()]
    shapes = {label: images.shape for label, images in drawn}
    if len(set(shapes.values())) > 1:
        msg = f"all rows of a picture must have the same number of images, of one size; got {shapes}"
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
            f"images to show must be (N, C, H, W), uint8 or floats from 0 to 1, C being 1 or 3; {label!r} is "
            f"{next(described(images))}"
        )
        raise UserError(msg)
    return (array / np.float32(255 if array.dtype == np.uint8 else 1)).clip(0, 1)
