"""A trained model as ONNX, for programs without torch: what of it is deterministic, in one file, checked against torch.

    reconstruct   images (B, C, H, W) → images
    encode        images → codes as rows (B, d), see `codec.py`: means, or indices
    decode        such rows → images

Nothing is drawn: where the code is a distribution it is its mean. The exporter may take a B that it has seen for a
constant, hence the check at several sizes. Indices of two codes that are equally near may differ: other programs round
differently.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from aelab.core.disk import write_atomically
from aelab.core.errors import UserError
from aelab.inference.codec import Codec
from aelab.models.base import Autoencoder

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
BATCHES = (1, 2, 3, 17)
TOLERANCE = 1e-4  # of images in [0, 1], and of means in units of the greatest one
TIES = 0.01  # of the indices


class Part(nn.Module):
    """A function of a model as a module of its own."""

    def __init__(self, model: Autoencoder, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: Tensor) -> Tensor:
        """What the function gives."""
        return self.function(x)


def exportable(model: Autoencoder) -> Mapping[str, tuple[Callable[[Tensor], Tensor], str, str]]:
    """What can be exported: the function, and what its input and its output are called."""
    codec = Codec(model)
    return {
        "reconstruct": (model.reconstruct, "images", "reconstructions"),
        "encode": (codec.encode, "images", "codes"),
        "decode": (codec.decode, "codes", "images"),
    }


@torch.no_grad()
def export(model: Autoencoder, part: str, path: Path) -> str:
    """Write a part of `model`, one of `exportable`, to `path`, once it has been found to compute the same.

    Returns:
        A sentence that says how far the outputs are from torch's.

    Raises:
        UserError: it does not compute the same, there is no such part, or packages are missing; names them.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        msg = f"the export needs {', '.join(missing)}: in a clone, `pip install '.[onnx]'` installs them"
        raise UserError(msg)
    if part not in exportable(model):
        msg = f"there is no part {part!r}; there are {', '.join(exportable(model))}"
        raise UserError(msg)
    function, given, gives = exportable(model)[part]
    examples = [_example(model, given, batch) for batch in BATCHES]
    with model.unchecked():
        content = _onnx(Part(model, function).eval(), examples[1], given, gives)
    sentence = _compared(content, function, examples)
    write_atomically(path, content)
    return sentence


def _example(model: Autoencoder, given: str, batch: int) -> Tensor:
    """Images of noise, or the codes of some."""
    generator = torch.Generator().manual_seed(batch)
    images = torch.rand(batch, *model.image, generator=generator)
    return images if given == "images" else Codec(model).encode(images)


def _onnx(module: nn.Module, example: Tensor, given: str, gives: str) -> bytes:
    """The content of an ONNX file with everything in it."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():  # of the exporter, about what it uses itself
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[given],
            output_names=[gives],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),  # another of them would settle for a constant in silence
            verbose=False,
        )
    if program is None:
        msg = "torch has exported nothing"
        raise RuntimeError(msg)
    return program.model_proto.SerializeToString()


def _compared(content: bytes, function: Callable[[Tensor], Tensor], examples: Sequence[Tensor]) -> str:
    """How far what the file gives is from what torch gives, in a sentence.

    Raises:
        UserError: it is not the same.
    """
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    pairs = [(function(x).numpy(), session.run(None, {name: x.numpy()})[0]) for x in examples]
    for expected, found in pairs:
        if found.shape != expected.shape or found.dtype != expected.dtype:
            msg = f"the exported model gives {found.dtype} {found.shape}, not {expected.dtype} {expected.shape}"
            raise UserError(msg)
    if np.issubdtype(pairs[0][0].dtype, np.integer):
        worst = max(float((found != expected).mean()) for expected, found in pairs)
        same, what = worst <= TIES, f"{worst:.2%} of the indices differ"
    else:
        worst = max(float(np.abs(found - expected).max()) for expected, found in pairs)
        greatest = max(float(np.abs(expected).max()) for expected, _ in pairs)
        same, what = worst <= TOLERANCE * max(1.0, greatest), f"the largest difference is {worst:.1e}"
    sentence = f"beside torch, at batches of {', '.join(map(str, BATCHES))}: {what}"
    if not same:
        msg = f"the exported model does not compute the same and is not written: {sentence}"
        raise UserError(msg)
    return sentence
