"""ONNX export of a trained model, for programs without torch. An export writes one of three functions to a file.

    reconstruct   images (B, C, H, W) → reconstructions (B, C, H, W)
    encode        images (B, C, H, W) → codes as rows (B, d), see `codec.py`
    decode        codes as rows (B, d) → images (B, C, H, W)

The functions are deterministic, because the mean replaces a code that is a distribution. Before an export writes the
file, the outputs of the exported model are compared with the outputs of torch. The comparison covers several batch
sizes, because the exporter of torch may turn a batch size into a constant.

ONNX Runtime and torch round differently. An index may therefore differ if two codes of the codebook are equally near to
the encoder's output.
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
BATCHES = (1, 2, 3, 17)  # Batch sizes at which the outputs are compared.
TOLERANCE = 1e-4  # Largest allowed difference ÷ max(1, largest absolute output).
TIES = 0.01  # Largest allowed share of indices that differ.


class Part(nn.Module):
    """Module whose forward pass is a single function of a model."""

    def __init__(self, model: Autoencoder, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to x."""
        return self.function(x)


def exportable(model: Autoencoder) -> Mapping[str, tuple[Callable[[Tensor], Tensor], str, str]]:
    """Functions that can be exported, by name, each with the names of its input and its output."""
    codec = Codec(model)
    return {
        "reconstruct": (model.reconstruct, "images", "reconstructions"),
        "encode": (codec.encode, "images", "codes"),
        "decode": (codec.decode, "codes", "images"),
    }


@torch.no_grad()
def export(model: Autoencoder, part: str, path: Path) -> str:
    """Export a function of a model as ONNX, and check the outputs before the file is written.

    Args:
        model: in evaluation mode, on the CPU.
        part: name of the function, one of `exportable`.
        path: the file to write.

    Returns:
        A sentence with the largest difference from the outputs of torch. If the outputs are indices, the sentence has
            the share of indices that differ.

    Raises:
        UserError: the outputs differ from the outputs of torch, `part` is not a name in `exportable`, or packages are
            missing.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        msg = f"the export needs {', '.join(missing)}: in a clone, `pip install '.[onnx]'` installs them"
        raise UserError(msg)
    if part not in exportable(model):
        msg = f"part is {part!r}: must be one of {', '.join(exportable(model))}"
        raise UserError(msg)
    function, given, gives = exportable(model)[part]
    examples = [_example(model, given, batch) for batch in BATCHES]
    with model.unchecked():
        content = _onnx(Part(model, function).eval(), examples[1], given, gives)
    sentence = _compared(content, function, examples)
    write_atomically(path, content)
    return sentence


def _example(model: Autoencoder, given: str, batch: int) -> Tensor:
    """Return a batch of the input `given`: images of uniform noise, or the codes of images of uniform noise."""
    generator = torch.Generator().manual_seed(batch)
    images = torch.rand(batch, *model.image, generator=generator)
    return images if given == "images" else Codec(model).encode(images)


def _onnx(module: nn.Module, example: Tensor, given: str, gives: str) -> bytes:
    """Convert a module to the content of an ONNX file, which includes the weights."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():  # the exporter gives warnings about its own code
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[given],
            output_names=[gives],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),  # with AUTO, a constant batch size would give no error
            verbose=False,
        )
    if program is None:
        msg = "torch.onnx.export returned no program"
        raise RuntimeError(msg)
    return program.model_proto.SerializeToString()


def _compared(content: bytes, function: Callable[[Tensor], Tensor], examples: Sequence[Tensor]) -> str:
    """Compare the outputs of an ONNX file with the outputs of torch, and return the largest difference as a sentence.

    Raises:
        UserError: the outputs differ.
    """
    import onnxruntime  # noqa: PLC0415 - an optional package

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
    sentence = f"compared with torch at batches of {', '.join(map(str, BATCHES))}: {what}"
    if not same:
        msg = f"the outputs of the exported model are wrong, so no file is written: {sentence}"
        raise UserError(msg)
    return sentence
