"""Tensors in safetensors files that contain their own SHA-256, so that any change of the file is detected.

The header of a file contains a JSON object with a description of the tensors and the SHA-256. The SHA-256 is computed
over the whole file, with zeros in place of the SHA-256 itself. Unlike a pickle file, such a file runs no code when a
program reads it. The reader refuses a file whose header states wrong sizes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors import torch as codec
from torch import Tensor

from aelab.core.disk import write_atomically
from aelab.core.errors import DamagedFile

ENTRY = "autoencoder"  # name of the JSON object in the header
BLANK = "0" * 64  # used in place of the SHA-256 while the SHA-256 is computed
UNREADABLE = (  # errors that a damaged file may raise
    OSError,
    safetensors.SafetensorError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write `tensors` and their description `about`, whose values must be JSON types, to `path` atomically."""
    entry = json.dumps({"sha256": BLANK, **about}, sort_keys=True)
    content = codec.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, {ENTRY: entry})
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(path, content.replace(BLANK.encode(), digest.encode(), 1))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors in `path`, on the CPU, and their description.

    Raises:
        DamagedFile: `write` did not write the file, or the file has changed since.
    """
    try:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][ENTRY])
        digest = about.pop("sha256")
        blanked = content.replace(digest.encode(), BLANK.encode(), 1)
        if hashlib.sha256(blanked).hexdigest() != digest:
            msg = f"{path} is damaged: its content does not have the SHA-256 that it states"
            raise DamagedFile(msg)
        return codec.load(content), about
    except UNREADABLE as error:
        msg = f"{path} cannot be read: {' '.join(str(error).split())}"
        raise DamagedFile(msg) from error
